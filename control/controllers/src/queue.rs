//! A queue of keys to be worked on.
//!
//! # Guarantees
//! * A key that is added while it waits is worked on once; a key that is added while it is worked on is worked on once more
//!   afterwards. So work on a key always starts after the last change that added it.
//! * No key is worked on twice at the same time.
//! * A key that failed comes back after a delay that doubles with each failure, and no sooner unless it is added.
//!
//! `kube::runtime::Controller` makes the same promises, but its keys are objects that exist: the garbage collector's work
//! is about those that do not, and each Controller keeps its own copy of the pods.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    fmt,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use weft_kit::backoff::Backoff;

use crate::{error::ReconcileError, metrics::ControllerMetrics};

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// See the [module](self). Clones share the queue.
pub(crate) struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    /// Told whenever a key may have become ready, or a delay that ends earlier than all others was added.
    changed: Notify,
}

struct State<K> {
    /// Ready, in order. Each key is in `dirty` too, and in none of the others.
    ready: VecDeque<K>,
    /// Has work that has not begun.
    dirty: HashSet<K>,
    /// Is being worked on.
    busy: HashSet<K>,
    /// Becomes ready at a time. An entry that `due` does not name any more is void.
    delayed: BinaryHeap<Reverse<Delayed<K>>>,
    /// The earliest time at which a delayed key is due.
    due: HashMap<K, Instant>,
    /// How long a key that failed waits next.
    backoff: HashMap<K, Backoff>,
}

struct Delayed<K> {
    due: Instant,
    key: K,
}

// === impl WorkQueue ===

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub(crate) fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            busy: HashSet::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            backoff: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// Has the key worked on as soon as possible.
    pub(crate) fn add(&self, key: K) {
        if self.shared.state.lock().add(key) {
            self.shared.changed.notify_one();
        }
    }

    /// Has the key worked on after a delay; an earlier time that was set before stays.
    pub(crate) fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.shared.state.lock();
        let due = Instant::now() + delay;
        if state.due.get(&key).is_some_and(|earlier| *earlier <= due) {
            return;
        }
        state.due.insert(key.clone(), due);
        state.delayed.push(Reverse(Delayed { due, key }));
        drop(state);
        self.shared.changed.notify_one();
    }

    /// How many keys are ready.
    pub(crate) fn len(&self) -> usize {
        self.shared.state.lock().ready.len()
    }

    /// The next key to work on. [`WorkQueue::done`] must be called when the work ends. Cancel-safe.
    pub(crate) async fn next(&self) -> K {
        loop {
            let next_due = {
                let mut state = self.shared.state.lock();
                let next_due = state.advance(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                next_due
            };
            match next_due {
                None => self.shared.changed.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = self.shared.changed.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }

    /// Ends the work on a key.
    pub(crate) fn done(&self, key: &K, outcome: Outcome) {
        let retry = {
            let mut state = self.shared.state.lock();
            state.busy.remove(key);
            if state.dirty.contains(key) {
                state.ready.push_back(key.clone());
                self.shared.changed.notify_one();
            }
            match outcome {
                Outcome::Done(after) => {
                    state.backoff.remove(key);
                    after
                }
                Outcome::Failed => {
                    let backoff = state
                        .backoff
                        .entry(key.clone())
                        .or_insert_with(|| Backoff::new(FIRST_RETRY, LAST_RETRY));
                    Some(backoff.next_delay())
                }
            }
        };
        if let Some(delay) = retry {
            self.add_after(key.clone(), delay);
        }
    }
}

/// How the work on a key ended.
pub(crate) enum Outcome {
    /// Well; perhaps to be looked at again after some time.
    Done(Option<Duration>),
    /// To be tried again.
    Failed,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

// === impl State ===

impl<K: Clone + Eq + Hash> State<K> {
    /// Says whether the key became ready.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) {
            return false;
        }
        // What is busy becomes ready when its work ends.
        if self.busy.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// Makes ready what is due and returns when the next is.
    fn advance(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse(first)) = self.delayed.peek() {
            if first.due > now {
                return Some(first.due);
            }
            if let Some(Reverse(Delayed { due, key })) = self.delayed.pop()
                && self.due.get(&key) == Some(&due)
            {
                self.due.remove(&key);
                self.add(key);
            }
        }
        None
    }
}

impl<K> PartialEq for Delayed<K> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl<K> Eq for Delayed<K> {}

impl<K> PartialOrd for Delayed<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Delayed<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

/// Works on the queue's keys, up to `concurrency` at a time, until `shutdown` is cancelled.
///
/// `reconcile` may ask to be called again after some time. Work under way at the end is dropped: reconcilers look at what
/// is there, so the next one to run finishes it.
pub(crate) async fn work<K, R, F>(
    queue: WorkQueue<K>,
    concurrency: usize,
    metrics: ControllerMetrics,
    reconcile: R,
    shutdown: CancellationToken,
) where
    K: Clone + Eq + Hash + fmt::Display,
    R: Fn(K) -> F,
    F: Future<Output = Result<Option<Duration>, ReconcileError>>,
{
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some((key, started, result)) = running.next() => {
                let outcome = judge(&metrics, &key, started, result);
                queue.done(&key, outcome);
            }
            key = queue.next(), if running.len() < concurrency => {
                metrics.depth.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
                let future = reconcile(key.clone());
                let started = Instant::now();
                running.push(async move { (key, started, future.await) });
            }
        }
    }
}

fn judge<K: fmt::Display>(
    metrics: &ControllerMetrics,
    key: &K,
    started: Instant,
    result: Result<Option<Duration>, ReconcileError>,
) -> Outcome {
    metrics.seconds.observe(started.elapsed().as_secs_f64());
    match result {
        Ok(after) => {
            metrics.done.inc();
            Outcome::Done(after)
        }
        Err(error) => {
            metrics.failed.inc();
            let text = weft_kit::error::chain(&error);
            // The cache was behind; that is how optimistic concurrency works, not news.
            if error.is_stale() {
                tracing::debug!(controller = metrics.name, %key, error = text, "will try again");
            } else {
                tracing::warn!(controller = metrics.name, %key, error = text, "reconciliation failed");
            }
            Outcome::Failed
        }
    }
}

#[cfg(test)]
mod tests;
