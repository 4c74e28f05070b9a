//! Pods that wait for a node.
//!
//! A pod is in one of three places: *active* (next in line), *backing off* (failed lately, comes back by itself) or
//! *unschedulable* (no node would do; comes back when the cluster changes in a way that may help it).

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    filter,
    pod::{PodInfo, PodKey},
};

/// How long a pod stays unschedulable at most before it is tried again all the same. Guards against a change that no
/// filter named.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// A change in the cluster that may help pods which no node would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A node came, or offers something else than before.
    Node,
    /// A pod ended, was deleted or moved: resources and places are free.
    PodGone,
    /// A pod was placed or relabelled: affinity and spread look different.
    PodPlaced,
    /// A namespace was relabelled.
    Namespace,
}

/// See the [module](self). `entries` is canonical; the ordered sets hold the same keys.
#[derive(Debug)]
pub(crate) struct Queue {
    entries: HashMap<PodKey, Entry>,
    active: BTreeSet<(Order, PodKey)>,
    backing_off: BTreeSet<(Instant, PodKey)>,
    /// By the time when their waiting ends at the latest.
    unschedulable: BTreeSet<(Instant, PodKey)>,
    initial_backoff: Duration,
    max_backoff: Duration,
}

/// A pod taken out of the queue to be scheduled; it goes back in if that fails.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) pod: Arc<PodInfo>,
    /// How often scheduling failed before.
    pub(crate) failures: u32,
}

#[derive(Debug)]
struct Entry {
    attempt: Attempt,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Active,
    BackingOff { until: Instant },
    Unschedulable { filters: BTreeSet<&'static str>, backoff_until: Instant, give_up: Instant },
}

/// Higher priority first, then older first.
type Order = (Reverse<i32>, Option<Timestamp>);

// === impl Queue ===

impl Queue {
    pub(crate) fn new(initial_backoff: Duration, max_backoff: Duration) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            initial_backoff,
            max_backoff,
        }
    }

    /// Adds a pod, or takes over its new wishes. One that waits keeps waiting unless its wishes changed.
    pub(crate) fn upsert(&mut self, pod: Arc<PodInfo>) {
        let failures = match self.entries.get(&pod.key) {
            Some(entry) if entry.attempt.pod == pod => return,
            Some(entry) if entry.attempt.pod.uid == pod.uid => entry.attempt.failures,
            _ => 0,
        };
        self.remove(&pod.key);
        self.insert(Attempt { pod, failures }, Place::Active);
    }

    /// Takes a pod out for good.
    pub(crate) fn remove(&mut self, key: &PodKey) {
        let Some(entry) = self.entries.remove(key) else { return };
        match entry.place {
            Place::Active => drop(self.active.remove(&(order(&entry.attempt.pod), key.clone()))),
            Place::BackingOff { until } => drop(self.backing_off.remove(&(until, key.clone()))),
            Place::Unschedulable { give_up, .. } => drop(self.unschedulable.remove(&(give_up, key.clone()))),
        }
    }

    /// Takes the next pod out to be scheduled.
    pub(crate) fn pop(&mut self) -> Option<Attempt> {
        let (_, key) = self.active.pop_first()?;
        self.entries.remove(&key).map(|entry| entry.attempt)
    }

    /// Puts back a pod that no node would take.
    pub(crate) fn put_unschedulable(
        &mut self,
        attempt: Attempt,
        filters: BTreeSet<&'static str>,
        now: Instant,
    ) {
        let (attempt, backoff_until) = self.failed(attempt, now);
        self.insert(
            attempt,
            Place::Unschedulable { filters, backoff_until, give_up: now + MAX_UNSCHEDULABLE },
        );
    }

    /// Puts back a pod that failed for a reason outside the cluster's state.
    pub(crate) fn put_back(&mut self, attempt: Attempt, now: Instant) {
        let (attempt, until) = self.failed(attempt, now);
        self.insert(attempt, Place::BackingOff { until });
    }

    /// Gives pods that the change may help another chance.
    pub(crate) fn wake(&mut self, change: Change, now: Instant) {
        let woken: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| match &entry.place {
                // Without any node there is no filter to blame; then only a node helps.
                Place::Unschedulable { filters, backoff_until, .. }
                    if filters.iter().any(|filter| filter::may_cure(filter, change))
                        || filters.is_empty() && change == Change::Node =>
                {
                    Some((key.clone(), *backoff_until))
                }
                _ => None,
            })
            .collect();
        for (key, until) in woken {
            let place = if until <= now { Place::Active } else { Place::BackingOff { until } };
            self.move_to(&key, place);
        }
    }

    /// Activates the pods whose waiting time is over.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some((time, key)) = self.first_deadline().cloned()
            && time <= now
        {
            self.move_to(&key, Place::Active);
        }
    }

    /// When [`Queue::advance`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.first_deadline().map(|(time, _)| *time)
    }

    /// Whether a pod is next in line.
    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// Keys of all pods that wait.
    pub(crate) fn keys(&self) -> Vec<PodKey> {
        self.entries.keys().cloned().collect()
    }

    /// How many pods are active, backing off and unschedulable.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [self.active.len(), self.backing_off.len(), self.unschedulable.len()]
    }

    fn first_deadline(&self) -> Option<&(Instant, PodKey)> {
        self.backing_off.first().into_iter().chain(self.unschedulable.first()).min()
    }

    fn failed(&self, attempt: Attempt, now: Instant) -> (Attempt, Instant) {
        let failures = attempt.failures.saturating_add(1);
        let backoff =
            self.initial_backoff.saturating_mul(1 << attempt.failures.min(16)).min(self.max_backoff);
        (Attempt { pod: attempt.pod, failures }, now + backoff)
    }

    fn move_to(&mut self, key: &PodKey, place: Place) {
        if let Some(attempt) = self.entries.get(key).map(|entry| entry.attempt.clone()) {
            self.remove(key);
            self.insert(attempt, place);
        }
    }

    fn insert(&mut self, attempt: Attempt, place: Place) {
        let key = attempt.pod.key.clone();
        match &place {
            Place::Active => drop(self.active.insert((order(&attempt.pod), key.clone()))),
            Place::BackingOff { until } => drop(self.backing_off.insert((*until, key.clone()))),
            Place::Unschedulable { give_up, .. } => drop(self.unschedulable.insert((*give_up, key.clone()))),
        }
        self.entries.insert(key, Entry { attempt, place });
    }
}

fn order(pod: &PodInfo) -> Order {
    (Reverse(pod.priority), pod.created)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn queue() -> Queue {
        Queue::new(Duration::from_millis(100), Duration::from_secs(10))
    }

    fn names(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|attempt| attempt.pod.key.name.to_string()).collect()
    }

    #[test]
    fn important_pods_go_first_and_older_ones_before_newer_ones() {
        let mut queue = queue();
        for (name, priority, second) in [("new", 0, 2), ("old", 0, 1), ("important", 9, 3)] {
            let mut pod = testing::pod(name).info();
            pod.priority = priority;
            pod.created = Some(Timestamp::from_second(second).expect("in range"));
            queue.upsert(Arc::new(pod));
        }
        assert_eq!(names(&mut queue), ["important", "old", "new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unschedulable_pod_comes_back_only_for_a_change_that_may_help() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.upsert(Arc::new(testing::pod("p").info()));
        let attempt = queue.pop().expect("it was added");
        queue.put_unschedulable(attempt, ["NodeAffinity"].into(), now);
        let later = now + Duration::from_secs(1);
        queue.wake(Change::PodGone, later);
        assert!(!queue.has_active());
        queue.wake(Change::Node, later);
        assert_eq!(names(&mut queue), ["p"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_woken_pod_still_waits_out_its_backoff() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.upsert(Arc::new(testing::pod("p").info()));
        let attempt = queue.pop().expect("it was added");
        queue.put_unschedulable(attempt, BTreeSet::new(), now);
        queue.wake(Change::Node, now);
        assert!(!queue.has_active());
        assert_eq!(queue.next_deadline(), Some(now + Duration::from_millis(100)));
        queue.advance(now + Duration::from_millis(100));
        assert!(queue.has_active());
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_doubles_up_to_its_maximum() {
        let (mut queue, mut now) = (queue(), Instant::now());
        queue.upsert(Arc::new(testing::pod("p").info()));
        for expected in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let attempt = queue.pop().expect("it is active");
            queue.put_back(attempt, now);
            let deadline = queue.next_deadline().expect("it is backing off");
            assert_eq!(deadline - now, Duration::from_millis(expected));
            now = deadline;
            queue.advance(now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_that_changes_no_wish_does_not_wake() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.upsert(Arc::new(testing::pod("p").info()));
        let attempt = queue.pop().expect("it was added");
        queue.put_unschedulable(attempt, ["NodeResourcesFit"].into(), now);
        queue.upsert(Arc::new(testing::pod("p").info()));
        assert!(!queue.has_active());
        queue.upsert(Arc::new(testing::pod("p").cpu("1m").info()));
        assert!(queue.has_active());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_forever() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.upsert(Arc::new(testing::pod("p").info()));
        let attempt = queue.pop().expect("it was added");
        queue.put_unschedulable(attempt, ["NodeResourcesFit"].into(), now);
        queue.advance(now + MAX_UNSCHEDULABLE);
        assert!(queue.has_active());
    }
}
