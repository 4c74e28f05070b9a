//! The snapshots and the streams of all proxies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    Snapshot,
    backlog::Backlog,
    books::{Books, LAGGARD_AFTER},
    metrics::{Answer, Gauges, Metrics},
    status::{self, ProxyBooks, ProxyStatus, TypeStatus},
};
use crate::{
    pb::envoy::config::core::v3::Node,
    resource::ResourceType,
    session::{
        Layer, Name, Version, VersionedSnapshot,
        server::{Handled, NameLists, Outgoing, ServerSession, Variant},
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

    /// The proxy refused something; told after [`answered`](Self::answered).
    fn refused(&self, _proxy_id: &str, _type_: ResourceType) {}
}

/// What one proxy is to know.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Resources of this proxy alone.
    pub layer: Layer,
    /// The types of which it also gets what all share. Where both have a name, the proxy's own counts.
    pub shares: &'static [ResourceType],
    /// The types of which it gets what it names of that, and nothing for asking for everything.
    pub on_request: &'static [ResourceType],
}

#[derive(Default)]
struct Inner {
    /// Locked for moments only, and never while an observer is called.
    proxies: Mutex<Proxies>,
    /// Counts the changes of what proxies are to know. Changed only while `proxies` is locked.
    generation: AtomicU64,
    observers: RwLock<Vec<Arc<dyn ProxyObserver>>>,
    metrics: Metrics,
    backlog: Arc<Backlog>,
    lists: NameLists,
}

#[derive(Default)]
struct Proxies {
    by_id: HashMap<String, Proxy>,
    /// Of all proxies.
    shared: Layer,
    /// Those with an open stream.
    connected: usize,
}

/// One proxy; there while it has a snapshot, or is or was connected.
#[derive(Default)]
struct Proxy {
    own: Option<Own>,
    /// As on its newest stream; `None` before the first.
    node: Option<Arc<Node>>,
    /// Open streams, the newest last.
    streams: Vec<Arc<Stream>>,
    /// As of the end of the last stream.
    last_seen: BTreeMap<ResourceType, TypeStatus>,
}

/// The part of a stream that others may reach.
struct Stream {
    state: Mutex<StreamState>,
    /// There may be a snapshot that the session does not have, or an answer that did not come in time.
    wake: Notify,
}

struct StreamState {
    variant: Variant,
    session: ServerSession,
    /// As of which the session has its snapshot; `None` before the first.
    generation: Option<u64>,
    books: Books,
}

/// One stream of one proxy, known to the cache for as long as it lives.
pub(super) struct ProxyStream {
    cache: SnapshotCache,
    variant: Variant,
    node: Arc<Node>,
    stream: Arc<Stream>,
    /// As of which the snapshot was last looked at; `None` before.
    looked_at: Option<u64>,
}

/// Names of shared resources that changed, by type.
type Changed = Vec<(ResourceType, Vec<Name>)>;

/// After as many changes every stream looks at the snapshot, also those that no change concerned. Until then such a
/// stream holds on to the resources of its time: this is how many generations of them there can be.
const CATCH_UP: u64 = 64;

// === impl SnapshotCache ===

impl SnapshotCache {
    /// Without any snapshot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces what a proxy is to know; what differs from before is pushed at once. It shares nothing with others.
    pub fn set(&self, proxy_id: &str, snapshot: Snapshot) {
        let previous = self.inner.proxies.lock().by_id.get(proxy_id).and_then(|proxy| proxy.own.clone());
        let mut own = Own { layer: previous.map(|own| own.layer).unwrap_or_default(), ..Own::default() };
        // Compared and encoded outside the lock: others' snapshots must not wait for a large one.
        own.layer.replace(&snapshot);
        self.give(proxy_id, own);
    }

    /// Replaces what belongs to a proxy alone, and what of the rest it gets; what differs is pushed at once.
    pub fn give(&self, proxy_id: &str, own: Own) {
        let streams = {
            let mut proxies = self.inner.proxies.lock();
            let streams = proxies.give(proxy_id, own);
            self.inner.generation.fetch_add(1, Ordering::Release);
            streams
        };
        streams.iter().for_each(|stream| stream.wake.notify_one());
    }

    /// Replaces what all proxies share, and what belongs to some of them alone, all at once. What differs is pushed at
    /// once to the streams that asked for it; others are left alone.
    pub fn publish(&self, shared: Layer, own: impl IntoIterator<Item = (String, Own)>) {
        let (changed, mut woken, others, generation) = {
            let mut proxies = self.inner.proxies.lock();
            let woken: Vec<_> = own.into_iter().flat_map(|(id, own)| proxies.give(&id, own)).collect();
            let before = std::mem::replace(&mut proxies.shared, shared);
            let generation = self.inner.generation.fetch_add(1, Ordering::Release);
            let changed = differing(&before, &proxies.shared);
            let others = if changed.is_empty() { Vec::new() } else { proxies.sharing() };
            (changed, woken, others, generation)
        };
        let all = generation.is_multiple_of(CATCH_UP);
        woken.extend(others.into_iter().filter(|stream| all || stream.is_concerned_by(&changed)));
        woken.iter().for_each(|stream| stream.wake.notify_one());
    }

    /// Forgets the proxy's snapshot. A proxy that is connected keeps what it has.
    pub fn clear(&self, proxy_id: &str) {
        let mut proxies = self.inner.proxies.lock();
        let Some(proxy) = proxies.by_id.get_mut(proxy_id) else { return };
        proxy.own = None;
        if proxy.streams.is_empty() {
            proxies.by_id.remove(proxy_id);
        }
    }

    /// Returns when no more than `laggards` responses are unanswered.
    pub async fn answered(&self, laggards: usize) {
        self.inner.backlog.at_most(laggards).await;
    }

    /// The number of responses that are not answered yet.
    pub fn unanswered(&self) -> usize {
        self.inner.backlog.len()
    }

    /// What is known of a proxy that is connected, or was and still has a snapshot.
    pub fn status(&self, proxy_id: &str) -> Option<ProxyStatus> {
        let proxies = self.inner.proxies.lock();
        let proxy = proxies.by_id.get(proxy_id)?;
        let node = proxy.node.clone()?;
        Some(ProxyStatus { node, streams: proxy.streams.len(), types: proxy.types() })
    }

    /// The books of a connected proxy, every resource included.
    pub fn books(&self, proxy_id: &str) -> Option<ProxyBooks> {
        let (node, streams, current) = {
            let proxies = self.inner.proxies.lock();
            let proxy = proxies.by_id.get(proxy_id)?;
            (proxy.node.clone()?, proxy.streams.clone(), self.current(&proxies, proxy_id))
        };
        // Outside the lock on all proxies: a proxy can have ten thousands of resources.
        if let Some((current, generation)) = current {
            let current = Arc::new(current);
            // A stream's task may not have seen the newest snapshot yet.
            streams.iter().for_each(|stream| stream.state.lock().know(&current, generation));
        }
        books(node, &streams, true)
    }

    /// The books of a connected proxy without its resources.
    pub fn summary(&self, proxy_id: &str) -> Option<ProxyBooks> {
        let (node, streams) = {
            let proxies = self.inner.proxies.lock();
            let proxy = proxies.by_id.get(proxy_id)?;
            (proxy.node.clone()?, proxy.streams.clone())
        };
        books(node, &streams, false)
    }

    /// The books of all connected proxies without their resources, by the proxies' ids.
    pub fn all_books(&self) -> Vec<ProxyBooks> {
        let mut found: Vec<_> = {
            let proxies = self.inner.proxies.lock();
            let connected = proxies.by_id.values().filter(|proxy| !proxy.streams.is_empty());
            connected.filter_map(|proxy| Some((proxy.node.clone()?, proxy.streams.clone()))).collect()
        };
        found.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        found.into_iter().filter_map(|(node, streams)| books(node, &streams, false)).collect()
    }

    /// Whether a connected proxy is known to have the current version of a resource, or to know of its absence.
    ///
    /// `None` if it is not connected or did not ask for the resource.
    pub fn is_acknowledged(&self, proxy_id: &str, type_: ResourceType, name: &str) -> Option<bool> {
        let (streams, (current, generation)) = {
            let proxies = self.inner.proxies.lock();
            let streams = proxies.by_id.get(proxy_id)?.streams.clone();
            (streams, self.current(&proxies, proxy_id)?)
        };
        let current = Arc::new(current);
        // Each type may have a stream of its own: the newest on which it was asked for tells.
        streams.iter().rev().find_map(|stream| {
            let mut state = stream.state.lock();
            // The stream's task may not have seen the newest snapshot yet.
            state.know(&current, generation);
            state.session.is_acknowledged(type_, name)
        })
    }

    /// Wakes the streams on which a response is unanswered for as long as this.
    pub(super) fn wake_overdue(&self, limit: Duration) {
        let streams: Vec<_> = {
            let proxies = self.inner.proxies.lock();
            proxies.by_id.values().flat_map(|proxy| proxy.streams.iter().cloned()).collect()
        };
        streams
            .iter()
            .filter(|stream| stream.overdue(limit).is_some())
            .for_each(|stream| stream.wake.notify_one());
    }

    /// The connected proxies that asked for a resource, by their ids, each with the version that it is known to have: the
    /// one that it acknowledged last, whatever was sent since.
    pub fn holders(&self, type_: ResourceType, name: &str) -> Vec<(String, Option<Version>)> {
        let connected: Vec<_> = {
            let proxies = self.inner.proxies.lock();
            let connected = proxies.by_id.iter().filter(|(_, proxy)| !proxy.streams.is_empty());
            connected.map(|(id, proxy)| (id.clone(), proxy.streams.clone())).collect()
        };
        let held = |streams: Vec<Arc<Stream>>| {
            // Each type may have a stream of its own: the newest on which it was asked for tells.
            streams.iter().rev().find_map(|stream| stream.state.lock().session.held_version(type_, name))
        };
        connected.into_iter().filter_map(|(id, streams)| Some((id, held(streams)?))).collect()
    }

    /// Whether the proxy asked for anything of a type, on a stream that is open. From then on [`holders`](Self::holders)
    /// has it for what it asked for.
    pub fn has_asked(&self, proxy_id: &str, type_: ResourceType) -> bool {
        let proxy = |proxies: &Proxies| Some(proxies.by_id.get(proxy_id)?.streams.clone());
        let streams = proxy(&self.inner.proxies.lock()).unwrap_or_default();
        streams.iter().any(|stream| stream.state.lock().session.sync(type_).is_some())
    }

    /// The proxies with an open stream.
    pub fn connected(&self) -> Vec<Arc<Node>> {
        let proxies = self.inner.proxies.lock();
        proxies
            .by_id
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
                .by_id
                .values()
                .map(|proxy| proxy.streams.clone())
                .filter(|streams| !streams.is_empty())
                .collect()
        };
        let mut gauges = Gauges::default();
        for streams in streams {
            let (mut worst, mut unanswered) = (None, None);
            for stream in streams {
                let stream = stream.state.lock();
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
        let node = Arc::new(node);
        let session =
            ServerSession::of_client(variant, &node.client_features).sharing(self.inner.lists.clone());
        let state = StreamState { variant, session, generation: None, books: Books::open() };
        let stream = Arc::new(Stream { state: Mutex::new(state), wake: Notify::new() });
        let first = {
            let mut proxies = self.inner.proxies.lock();
            let proxy = proxies.by_id.entry(node.id.clone()).or_default();
            proxy.node = Some(node.clone());
            proxy.streams.push(stream.clone());
            let first = proxy.streams.len() == 1;
            proxies.connected += usize::from(first);
            self.inner.metrics.proxies(proxies.connected);
            first
        };
        self.inner.metrics.stream_opened(variant);
        if first {
            self.inner.tell(|observer| observer.connected(&node));
        }
        ProxyStream { cache: self.clone(), variant, node, stream, looked_at: None }
    }

    /// With the generation that it is of.
    fn current(&self, proxies: &Proxies, proxy_id: &str) -> Option<(VersionedSnapshot, u64)> {
        let own = proxies.by_id.get(proxy_id)?.own.as_ref()?;
        let snapshot = VersionedSnapshot::layered(&own.layer, &proxies.shared, own.shares, own.on_request);
        Some((snapshot, self.inner.generation.load(Ordering::Acquire)))
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

// === impl Proxies ===

impl Proxies {
    /// Replaces a proxy's own part; gives the streams that do not know it yet.
    fn give(&mut self, proxy_id: &str, own: Own) -> Vec<Arc<Stream>> {
        let proxy = match self.by_id.get_mut(proxy_id) {
            Some(proxy) => proxy,
            None => self.by_id.entry(proxy_id.to_owned()).or_default(),
        };
        let same = |known: &Own| {
            known.shares == own.shares
                && known.on_request == own.on_request
                && known.layer.is_same(&own.layer)
        };
        if proxy.own.as_ref().is_some_and(same) {
            return Vec::new();
        }
        proxy.own = Some(own);
        proxy.streams.clone()
    }

    /// The streams of the proxies that share anything.
    fn sharing(&self) -> Vec<Arc<Stream>> {
        let shares = |own: &Own| !(own.shares.is_empty() && own.on_request.is_empty());
        let shares = |proxy: &&Proxy| proxy.own.as_ref().is_some_and(shares);
        self.by_id.values().filter(shares).flat_map(|proxy| proxy.streams.iter().cloned()).collect()
    }
}

// === impl Proxy ===

impl Proxy {
    /// Each type as on the newest stream on which it was asked for.
    fn types(&self) -> BTreeMap<ResourceType, TypeStatus> {
        match self.streams.as_slice() {
            [] => self.last_seen.clone(),
            streams => streams.iter().flat_map(|stream| stream.state.lock().types()).collect(),
        }
    }
}

// === impl Stream ===

impl Stream {
    /// The type of a response that is unanswered for as long as this.
    fn overdue(&self, limit: Duration) -> Option<ResourceType> {
        let longest = self.state.lock().books.longest_unanswered();
        longest.filter(|(_, waits)| *waits >= limit).map(|(type_, _)| type_)
    }

    fn is_concerned_by(&self, changed: &Changed) -> bool {
        let state = self.state.lock();
        changed.iter().any(|(type_, names)| state.session.is_concerned_by(*type_, names))
    }
}

// === impl StreamState ===

impl StreamState {
    /// Hands over a snapshot, unless the session has it or a later one: it is handed over by who needs it first, and
    /// two of them may be at it at the same time.
    fn know(&mut self, snapshot: &Arc<VersionedSnapshot>, generation: u64) {
        if self.generation.is_none_or(|known| known < generation) {
            self.generation = Some(generation);
            self.session.set_snapshot(snapshot.clone());
        }
    }

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

    /// Waits until there may be a snapshot that the session does not have yet, or an answer that did not come. Cancel-safe.
    pub(super) async fn woken(&self) {
        self.stream.wake.notified().await;
    }

    /// Waits until a sign of life is due. Cancel-safe.
    pub(super) async fn life_due(&self) {
        let due = self.stream.state.lock().session.due();
        match due {
            // In a box, as next to no stream has one.
            Some(due) => Box::pin(sleep_until(Instant::from_std(due))).await,
            None => std::future::pending().await,
        }
    }

    /// The type of a response that is unanswered for as long as this, which is counted.
    pub(super) fn overdue(&self, limit: Duration) -> Option<ResourceType> {
        let type_ = self.stream.overdue(limit)?;
        self.cache.inner.metrics.overdue(type_);
        Some(type_)
    }

    /// Hands a request to the session.
    pub(super) fn handle(&self, request: impl FnOnce(&mut ServerSession) -> Handled) {
        let metrics = &self.cache.inner.metrics;
        let handled = {
            let mut state = self.stream.state.lock();
            let handled = request(&mut state.session);
            if let Handled::Accepted(type_) | Handled::Refused(type_, _) = &handled {
                let accepted = matches!(handled, Handled::Accepted(_));
                if let Some(took) = state.books.answered(*type_, accepted) {
                    metrics.took(*type_, took);
                }
            }
            handled
        };
        if matches!(handled, Handled::Accepted(_) | Handled::Refused(..)) {
            self.cache.inner.backlog.remove(1);
        }
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
                self.cache.inner.tell(|observer| observer.refused(proxy, type_));
            }
            Handled::UnknownType(type_url) => {
                tracing::debug!(proxy, type_url, "asked for a type that is not served")
            }
        }
    }

    /// The next response to send, until there is none.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        self.catch_up();
        let outgoing = {
            let mut state = self.stream.state.lock();
            let outgoing = state.session.next_at(Instant::now().into_std())?;
            state.books.sent(outgoing.type_);
            outgoing
        };
        self.cache.inner.backlog.add();
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

    /// Hands over the current snapshot, if the session does not have it.
    fn catch_up(&mut self) {
        if self.looked_at == Some(self.cache.inner.generation.load(Ordering::Acquire)) {
            return;
        }
        let current = {
            let proxies = self.cache.inner.proxies.lock();
            self.cache.current(&proxies, self.proxy_id())
        };
        if let Some((snapshot, generation)) = current {
            self.looked_at = Some(generation);
            let mut state = self.stream.state.lock();
            state.know(&Arc::new(snapshot), generation);
            state.books.changed();
        }
    }
}

impl Drop for ProxyStream {
    fn drop(&mut self) {
        let unanswered = self.stream.state.lock().session.unanswered();
        self.cache.inner.backlog.remove(unanswered);
        let last = {
            let mut proxies = self.cache.inner.proxies.lock();
            let Some(proxy) = proxies.by_id.get_mut(&self.node.id) else { return };
            proxy.streams.retain(|stream| !Arc::ptr_eq(stream, &self.stream));
            let last = proxy.streams.is_empty();
            if last {
                proxy.last_seen = self.stream.state.lock().types();
                if proxy.own.is_none() {
                    proxies.by_id.remove(&self.node.id);
                }
                proxies.connected -= 1;
                self.cache.inner.metrics.proxies(proxies.connected);
            }
            last
        };
        self.cache.inner.metrics.stream_closed(self.variant);
        if last {
            self.cache.inner.tell(|observer| observer.disconnected(&self.node));
        }
    }
}

fn differing(before: &Layer, after: &Layer) -> Changed {
    let of_type = |type_: ResourceType| {
        let mut names = Vec::new();
        before.get(type_).changes(after.get(type_), &mut |change| names.extend(change.name().cloned()));
        (!names.is_empty()).then_some((type_, names))
    };
    ResourceType::ALL.into_iter().filter_map(of_type).collect()
}

/// The books of one proxy; `None` without a stream.
fn books(node: Arc<Node>, streams: &[Arc<Stream>], with_resources: bool) -> Option<ProxyBooks> {
    let mut all: Option<ProxyBooks> = None;
    for stream in streams {
        let stream = stream.state.lock();
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
