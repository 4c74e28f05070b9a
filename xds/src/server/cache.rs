//! The snapshots and the streams of all proxies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::{
    Snapshot,
    metrics::{Answer, Metrics},
    status::{self, ProxyStatus, TypeStatus},
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
    session: ServerSession,
    refused_at: BTreeMap<ResourceType, SystemTime>,
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
        let types = match proxy.streams.last() {
            Some(stream) => stream.lock().types(),
            None => proxy.last_seen.clone(),
        };
        Some(ProxyStatus { node, streams: proxy.streams.len(), types })
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
        Box::new(self.inner.metrics.clone())
    }

    /// Registers a new stream of the proxy that `node` names.
    pub(super) fn open(&self, node: Node, variant: Variant) -> ProxyStream {
        let session = ServerSession::new(variant);
        let state = Arc::new(Mutex::new(StreamState { session, refused_at: BTreeMap::new() }));
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

// === impl StreamState ===

impl StreamState {
    fn types(&self) -> BTreeMap<ResourceType, TypeStatus> {
        status::types(&self.session, &self.refused_at)
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
                self.state.lock().session.set_snapshot(snapshot);
                return;
            }
        }
    }

    /// Hands a request to the session.
    pub(super) fn handle(&self, request: impl FnOnce(&mut ServerSession) -> Handled) {
        let handled = {
            let mut state = self.state.lock();
            let handled = request(&mut state.session);
            if let Handled::Refused(type_, _) = &handled {
                state.refused_at.insert(*type_, SystemTime::now());
            }
            handled
        };
        let metrics = &self.cache.inner.metrics;
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
        let outgoing = self.state.lock().session.next()?;
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
