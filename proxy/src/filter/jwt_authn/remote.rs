//! Keys that a server gives out: fetched when they are needed, or ahead of that, and kept for a time.
//!
//! # Guarantees
//! * One fetch at a time for the whole process, whoever waits for it; it waits on its data thread as any call does, and
//!   if who fetches goes away, the next one in line goes on.
//! * Keys are known to all threads at once. What a fetch fails to bring leaves good keys in force until their time is over.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::keys::KeySet;
use crate::{
    callout::{self, Call, Keep},
    cluster::{ClusterSlot, breaker::Priority},
    http::head::{Head, Method},
    metrics::CounterSet,
    proxy_protocol::Addresses,
    route::backoff::BackOff,
    worker::{Worker, upkeep::Upkeep},
};

/// Largest set of keys.
const LARGEST: usize = 1024 * 1024;
/// Keys that are fetched ahead are so before the old ones are too old by this.
const AHEAD: Duration = Duration::from_secs(5);

/// Where keys come from, and those that came.
#[derive(Debug)]
pub(super) struct RemoteKeys {
    pub(super) cluster: Arc<ClusterSlot>,
    pub(super) host: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) timeout: Option<Duration>,
    /// How long keys are good.
    pub(super) lifetime: Duration,
    /// How often a fetch is tried again, and when.
    pub(super) retries: u32,
    pub(super) back_off: BackOff,
    /// Whether keys are fetched before anybody needs them, and how soon again after a failure.
    pub(super) ahead: Option<Duration>,
    pub(super) stats: Arc<CounterSet>,
    pub(super) state: State,
}

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct State {
    current: ArcSwapOption<Fetched>,
    fetching: AtomicBool,
    /// Fetches that came to an end, good or bad.
    ended: AtomicU64,
    /// Told when one does, or is given up.
    done: Notify,
    /// When keys are to be fetched ahead again.
    due: ArcSwapOption<Instant>,
}

#[derive(Debug)]
struct Fetched {
    keys: Arc<KeySet>,
    until: Instant,
}

/// The one who fetches; the next may when this is dropped.
struct Turn<'s>(&'s State);

// === impl RemoteKeys ===

impl RemoteKeys {
    /// The keys, unless they are too old.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        let fetched = self.state.current.load();
        let fetched = fetched.as_ref().filter(|fetched| Instant::now() < fetched.until)?;
        Some(Arc::clone(&fetched.keys))
    }

    /// Waits until there are keys, or a fetch failed.
    pub(super) async fn wait(&self, worker: &Worker) {
        let before = self.state.ended.load(Ordering::Acquire);
        loop {
            let done = self.state.done.notified();
            let mut done = std::pin::pin!(done);
            // Before the look, so that nothing is missed between.
            done.as_mut().enable();
            let ended = self.state.ended.load(Ordering::Acquire) != before;
            if ended || self.current().is_some() || self.is_failing() {
                return;
            }
            match Turn::take(&self.state) {
                Some(turn) => return self.fetch(worker, turn).await,
                None => done.await,
            }
        }
    }

    /// Whether keys are fetched ahead, the last time in vain, and not yet again.
    fn is_failing(&self) -> bool {
        self.ahead.is_some() && !self.is_due()
    }

    fn is_due(&self) -> bool {
        self.state.due.load().as_ref().is_none_or(|due| **due <= Instant::now())
    }

    /// Fetches keys and puts them in force.
    async fn fetch(&self, worker: &Worker, turn: Turn<'_>) {
        let mut made = 0;
        let keys = loop {
            match self.attempt(worker).await {
                Err(reason) if made < self.retries => {
                    tracing::debug!(host = %self.name(), %reason, "cannot fetch keys, trying again");
                    tokio::time::sleep(self.back_off.wait(made, &worker.random)).await;
                    made += 1;
                }
                result => break result,
            }
        };
        let now = Instant::now();
        let again = match keys {
            Ok(keys) => {
                let fetched = Fetched { keys: Arc::new(keys), until: now + self.lifetime };
                self.state.current.store(Some(Arc::new(fetched)));
                self.stats.add(worker.index, super::FETCHED);
                let margin = if self.lifetime > 2 * AHEAD { AHEAD } else { self.lifetime / 2 };
                self.lifetime - margin
            }
            Err(reason) => {
                tracing::warn!(host = %self.name(), %reason, "cannot fetch keys");
                self.stats.add(worker.index, super::FETCH_FAILED);
                self.ahead.unwrap_or(self.lifetime)
            }
        };
        self.state.due.store(Some(Arc::new(now + again)));
        self.state.ended.fetch_add(1, Ordering::Release);
        drop(turn);
    }

    async fn attempt(&self, worker: &Worker) -> Result<KeySet, String> {
        let cluster = self.cluster.get().ok_or("the cluster is not known")?;
        let mut head = Head::default();
        let method = head.intern(b"GET");
        head.set_method(Method::Get, method);
        let target = head.intern(&self.target);
        head.set_target(target);
        let host = head.intern(&self.host);
        head.set_authority(host);
        callout::announce(&mut head, self.timeout);
        let nobody = ([0, 0, 0, 0], 0).into();
        let call = Call {
            worker,
            cluster: &cluster,
            head: &head,
            body: &Bytes::new(),
            priority: Priority::Default,
            hash: None,
            client: Addresses { source: nobody, destination: nobody },
            timeout: self.timeout,
            keep: Keep::Within(LARGEST),
        };
        let answer = call.send().await.map_err(|failure| failure.to_string())?;
        match answer.head.status {
            200 => KeySet::parse(&answer.body),
            status => Err(format!("the answer has status {status}")),
        }
    }

    fn name(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.host)
    }
}

impl Upkeep for RemoteKeys {
    fn tend(self: Arc<Self>, worker: &Rc<Worker>) {
        if self.ahead.is_none() || !self.is_due() || self.state.fetching.load(Ordering::Relaxed) {
            return;
        }
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            if let Some(turn) = Turn::take(&self.state) {
                self.fetch(&worker, turn).await;
            }
        });
    }
}

// === impl Turn ===

impl<'s> Turn<'s> {
    fn take(state: &'s State) -> Option<Self> {
        // Made only if it is ours: its drop gives the turn away.
        (!state.fetching.swap(true, Ordering::Acquire)).then(|| Self(state))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetching.store(false, Ordering::Release);
        self.0.done.notify_waiters();
    }
}
