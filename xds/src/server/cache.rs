//! The snapshots and the streams of all proxies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{
    Snapshot,
    books::{Books, LAGGARD_AFTER},
    metrics::{Answer, Gauges, Metrics},
    status::{self, ProxyBooks, ProxyStatus, TypeStatus},
};
use crate::{
    pb::envoy::config::core::v3::Node,
    resource::ResourceType,
    session::{
        VersionedSnapshot,
        server::{Handled, Outgoing, ServerSession, Variant},
    },
};

/// The snapshots of all proxies; clones share them.
#[derive(Clone, Default)]
pub struct SnapshotCache {
    inner: Arc<Inner>,
}

/// Told of what proxies do. Called from the streams' tasks: return quickly.
pub trait ProxyObserver: Send + Sync {
    /// The first stream of this proxy was opened.
    fn connected(&self, _node: &Node) {}

    /// The last stream of this proxy was closed.
    fn disconnected(&self, _node: &Node) {}

    /// The proxy acknowledged or refused something; [`SnapshotCache::status`] has the details.
    fn answered(&self, _proxy_id: &str, _type_: ResourceType) {}
}

#[derive(Default)]
struct Inner {
    /// By proxy id. Locked for moments only, and never while an observer is called.
    proxies: Mutex<HashMap<String, Proxy>>,
    observers: RwLock<Vec<Arc<dyn ProxyObserver>>>,
    metrics: Metrics,
}

/// One proxy; there while it has a snapshot, or is or was connected.
struct Proxy {
    snapshot: watch::Sender<Option<Arc<VersionedSnapshot>>>,
    /// As on its newest stream; `None` before the first.
    node: Option<Node>,
    /// Open streams, the newest last.
    streams: Vec<Arc<Mutex<StreamState>>>,
    /// As of the end of the last stream.
    last_seen: BTreeMap<ResourceType, TypeStatus>,
}

/// The part of a stream that others may look at.
struct StreamState {
    variant: Variant,
    session: ServerSession,
    books: Books,
}

/// One stream of one proxy, known to the cache for as long as it lives.
pub(super) struct ProxyStream {
    cache: SnapshotCache,
    variant: Variant,
    node: Node,
    state: Arc<Mutex<StreamState>>,
    snapshot: watch::Receiver<Option<Arc<VersionedSnapshot>>>,
}

// === impl SnapshotCache ===

impl SnapshotCache {
    /// Without any snapshot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what a proxy is to know; what differs from before is pushed at once.
    pub fn set(&self, proxy_id: &str, snapshot: Snapshot) {
        let previous = self.current(proxy_id);
        // Compared and hashed outside the lock: others' snapshots must not wait for a large one.
        let new = VersionedSnapshot::new(snapshot, previous.as_deref());
        if previous.is_some_and(|previous| previous.is_same(&new)) {
            return;
        }
        let mut proxies = self.inner.proxies.lock();
        proxies.entry(proxy_id.to_owned()).or_default().snapshot.send_replace(Some(Arc::new(new)));
    }

    /// Forgets the proxy's snapshot. A proxy that is connected keeps what it has.
    pub fn clear(&self, proxy_id: &str) {
        let mut proxies = self.inner.proxies.lock();
        let Some(proxy) = proxies.get(proxy_id) else { return };
        proxy.snapshot.send_replace(None);
        if proxy.streams.is_empty() {
            proxies.remove(proxy_id);
        }
    }

    /// What is known of a proxy that is connected, or was and still has a snapshot.
    pub fn status(&self, proxy_id: &str) -> Option<ProxyStatus> {
        let proxies = self.inner.proxies.lock();
        let proxy = proxies.get(proxy_id)?;
        let node = proxy.node.clone()?;
        Some(ProxyStatus { node, streams: proxy.streams.len(), types: proxy.types() })
    }

    /// The books of a connected proxy, every resource included.
    pub fn books(&self, proxy_id: &str) -> Option<ProxyBooks> {
        let (node, streams, current) = {
            let proxies = self.inner.proxies.lock();
            let proxy = proxies.get(proxy_id)?;
            (proxy.node.clone()?, proxy.streams.clone(), proxy.snapshot.borrow().clone())
        };
        // Outside the lock on all proxies: a proxy can have ten thousands of resources.
        if let Some(current) = current {
            // A stream's task may not have seen the newest snapshot yet.
            streams.iter().for_each(|stream| stream.lock().session.set_snapshot(current.clone()));
        }
        books(node, &streams, true)
    }

    /// The books of a connected proxy without its resources.
    pub fn summary(&self, proxy_id: &str) -> Option<ProxyBooks> {
        let (node, streams) = {
            let proxies = self.inner.proxies.lock();
            let proxy = proxies.get(proxy_id)?;
            (proxy.node.clone()?, proxy.streams.clone())
        };
        books(node, &streams, false)
    }

    /// The books of all connected proxies without their resources, by the proxies' ids.
    pub fn all_books(&self) -> Vec<ProxyBooks> {
        let mut found: Vec<_> = {
            let proxies = self.inner.proxies.lock();
            let connected = proxies.values().filter(|proxy| !proxy.streams.is_empty());
            connected.filter_map(|proxy| Some((proxy.node.clone()?, proxy.streams.clone()))).collect()
        };
        found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        found.into_iter().filter_map(|(node, streams)| books(node, &streams, false)).collect()
    }

    /// Whether a connected proxy is known to have the current version of a resource, or to know of its absence.
    ///
    /// `None` if it is not connected or did not ask for the resource.
    pub fn is_acknowledged(&self, proxy_id: &str, type_: ResourceType, name: &str) -> Option<bool> {
        let stream = self.inner.proxies.lock().get(proxy_id)?.streams.last()?.clone();
        let current = self.current(proxy_id)?;
        let mut stream = stream.lock();
        // The stream's task may not have seen the newest snapshot yet.
        stream.session.set_snapshot(current);
        stream.session.is_acknowledged(type_, name)
    }

    /// The proxies with an open stream.
    pub fn connected(&self) -> Vec<Node> {
        let proxies = self.inner.proxies.lock();
        proxies
            .values()
            .filter(|proxy| !proxy.streams.is_empty())
            .filter_map(|proxy| proxy.node.clone())
            .collect()
    }

    /// Adds an observer, for good.
    pub fn observe(&self, observer: Arc<dyn ProxyObserver>) {
        self.inner.observers.write().push(observer);
    }

    /// Metrics of all streams, to be registered once.
    pub fn collector(&self) -> Box<dyn prometheus::core::Collector> {
        let cache = self.clone();
        Box::new(self.inner.metrics.clone().with_gauges(move || cache.gauges()))
    }

    /// How the proxies are now.
    fn gauges(&self) -> Gauges {
        let streams: Vec<Vec<_>> = {
            let proxies = self.inner.proxies.lock();
            proxies
                .values()
                .map(|proxy| proxy.streams.clone())
                .filter(|streams| !streams.is_empty())
                .collect()
        };
        let mut gauges = Gauges::default();
        for streams in streams {
            let (mut worst, mut unanswered) = (None, None);
            for stream in streams {
                let stream = stream.lock();
                worst = worst.max(ResourceType::ALL.into_iter().filter_map(|t| stream.session.sync(t)).max());
                unanswered = unanswered.max(stream.books.oldest_unanswered());
            }
            if let Some(state) = worst {
                *gauges.proxies.entry(state).or_default() += 1;
            }
            if let Some(waiting) = unanswered {
                gauges.oldest = gauges.oldest.max(waiting);
                gauges.laggards += usize::from(waiting > LAGGARD_AFTER);
            }
        }
        gauges
    }

    /// Registers a new stream of the proxy that `node` names.
    pub(super) fn open(&self, node: Node, variant: Variant) -> ProxyStream {
        let session = ServerSession::new(variant);
        let state = Arc::new(Mutex::new(StreamState { variant, session, books: Books::open() }));
        let (mut snapshot, first) = {
            let mut proxies = self.inner.proxies.lock();
            let proxy = proxies.entry(node.id.clone()).or_default();
            proxy.node = Some(node.clone());
            proxy.streams.push(state.clone());
            let opened = (proxy.snapshot.subscribe(), proxy.streams.len() == 1);
            self.inner.metrics.proxies(connected(&proxies));
            opened
        };
        self.inner.metrics.stream_opened(variant);
        // What is there already counts as a change.
        snapshot.mark_changed();
        if first {
            self.inner.tell(|observer| observer.connected(&node));
        }
        ProxyStream { cache: self.clone(), variant, node, state, snapshot }
    }

    fn current(&self, proxy_id: &str) -> Option<Arc<VersionedSnapshot>> {
        self.inner.proxies.lock().get(proxy_id)?.snapshot.borrow().clone()
    }
}

// === impl Inner ===

impl Inner {
    fn tell(&self, what: impl Fn(&dyn ProxyObserver)) {
        // Cloned, so that an observer may add another.
        let observers = self.observers.read().clone();
        observers.iter().for_each(|observer| what(observer.as_ref()));
    }
}

// === impl Proxy ===

impl Default for Proxy {
    fn default() -> Self {
        Self {
            snapshot: watch::Sender::new(None),
            node: None,
            streams: Vec::new(),
            last_seen: BTreeMap::new(),
        }
    }
}

impl Proxy {
    /// Each type as on the newest stream on which it was asked for.
    fn types(&self) -> BTreeMap<ResourceType, TypeStatus> {
        match self.streams.as_slice() {
            [] => self.last_seen.clone(),
            streams => streams.iter().flat_map(|stream| stream.lock().types()).collect(),
        }
    }
}

// === impl StreamState ===

impl StreamState {
    fn types(&self) -> BTreeMap<ResourceType, TypeStatus> {
        status::types(&self.session, &self.books, ServerSession::report)
    }

    fn summary(&self) -> BTreeMap<ResourceType, TypeStatus> {
        status::types(&self.session, &self.books, ServerSession::summary)
    }
}

// === impl ProxyStream ===

impl ProxyStream {
    pub(super) fn proxy_id(&self) -> &str {
        &self.node.id
    }

    /// Waits for a snapshot that the session does not have yet, and hands it over. Cancel-safe.
    pub(super) async fn snapshot_changed(&mut self) {
        loop {
            // The cache, which this stream holds, owns the sender.
            if self.snapshot.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(snapshot) = self.snapshot.borrow_and_update().clone() {
                let mut state = self.state.lock();
                state.session.set_snapshot(snapshot);
                state.books.changed();
                return;
            }
        }
    }

    /// Hands a request to the session.
    pub(super) fn handle(&self, request: impl FnOnce(&mut ServerSession) -> Handled) {
        let metrics = &self.cache.inner.metrics;
        let handled = {
            let mut state = self.state.lock();
            let handled = request(&mut state.session);
            if let Handled::Accepted(type_) | Handled::Refused(type_, _) = &handled {
                let accepted = matches!(handled, Handled::Accepted(_));
                if let Some(took) = state.books.answered(*type_, accepted) {
                    metrics.took(*type_, took);
                }
            }
            handled
        };
        let proxy = self.proxy_id();
        match handled {
            Handled::Asked(type_) => tracing::trace!(proxy, %type_, "asked"),
            Handled::Stale(type_) => {
                metrics.answered(type_, Answer::Stale);
                tracing::debug!(proxy, %type_, "stale answer ignored");
            }
            Handled::Accepted(type_) => {
                metrics.answered(type_, Answer::Ack);
                tracing::debug!(proxy, %type_, "acknowledged");
                self.cache.inner.tell(|observer| observer.answered(proxy, type_));
            }
            Handled::Refused(type_, refusal) => {
                metrics.answered(type_, Answer::Nack);
                tracing::warn!(proxy, %type_, version = %refusal.version, reason = refusal.message, "refused");
                self.cache.inner.tell(|observer| observer.answered(proxy, type_));
            }
            Handled::UnknownType(type_url) => {
                tracing::debug!(proxy, type_url, "asked for a type that is not served")
            }
        }
    }

    /// The next response to send, until there is none.
    pub(super) fn next(&self) -> Option<Outgoing> {
        let outgoing = {
            let mut state = self.state.lock();
            let outgoing = state.session.next()?;
            state.books.sent(outgoing.type_);
            outgoing
        };
        self.cache.inner.metrics.sent(outgoing.type_);
        tracing::debug!(
            proxy = self.proxy_id(),
            type_ = %outgoing.type_,
            version = %outgoing.version,
            resources = outgoing.upserts.len(),
            removed = outgoing.removed.len(),
            "sent"
        );
        Some(outgoing)
    }
}

impl Drop for ProxyStream {
    fn drop(&mut self) {
        let last = {
            let mut proxies = self.cache.inner.proxies.lock();
            let Some(proxy) = proxies.get_mut(&self.node.id) else { return };
            proxy.streams.retain(|stream| !Arc::ptr_eq(stream, &self.state));
            let last = proxy.streams.is_empty();
            if last {
                proxy.last_seen = self.state.lock().types();
                if proxy.snapshot.borrow().is_none() {
                    proxies.remove(&self.node.id);
                }
            }
            self.cache.inner.metrics.proxies(connected(&proxies));
            last
        };
        self.cache.inner.metrics.stream_closed(self.variant);
        if last {
            self.cache.inner.tell(|observer| observer.disconnected(&self.node));
        }
    }
}

fn connected(proxies: &HashMap<String, Proxy>) -> usize {
    proxies.values().filter(|proxy| !proxy.streams.is_empty()).count()
}

/// The books of one proxy; `None` without a stream.
fn books(node: Node, streams: &[Arc<Mutex<StreamState>>], with_resources: bool) -> Option<ProxyBooks> {
    let mut all: Option<ProxyBooks> = None;
    for stream in streams {
        let stream = stream.lock();
        let all = all.get_or_insert_with(|| ProxyBooks {
            node: node.clone(),
            connected_at: stream.books.opened,
            variant: stream.variant,
            unanswered_for: None,
            types: BTreeMap::new(),
            resources: Vec::new(),
        });
        all.variant = stream.variant;
        all.unanswered_for = all.unanswered_for.max(stream.books.oldest_unanswered());
        for (type_, status) in if with_resources { stream.types() } else { stream.summary() } {
            if with_resources {
                all.resources.retain(|resource| resource.type_ != type_);
                all.resources.extend(status::resources(&stream.session, type_, &status));
            }
            all.types.insert(type_, status);
        }
    }
    all
}
