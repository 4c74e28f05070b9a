//! Counting ended pods exactly once, although pods vanish and writes fail.
//!
//! Every pod of a Job carries a finalizer, so it cannot vanish uncounted. When it has ended:
//!
//! 1. its UID is written to `status.uncountedTerminatedPods`;
//! 2. its finalizer is removed;
//! 3. the UID is taken from that list and the number raised, in one write.
//!
//! After a crash between any two of these the next round sees which was the last. This is the protocol of Kubernetes.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{
    batch::v1::{JobStatus, UncountedTerminatedPods},
    core::v1::Pod,
};

use crate::{key::uid, pods};

/// Keeps a pod from vanishing before it is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// The numbers of a Job after a round of counting.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// All pods that succeeded, those between the steps included.
    pub(super) succeeded: i32,
    /// All pods that failed, likewise.
    pub(super) failed: i32,
    /// How many of them were new in this round.
    pub(super) newly_succeeded: usize,
    /// How many of them were new in this round.
    pub(super) newly_failed: usize,
    /// Ended pods whose finalizer may be removed once the status is written.
    pub(super) to_release: Vec<Arc<Pod>>,
    /// Whether no pod is between the steps.
    pub(super) complete: bool,
}

/// Whether the pod still waits to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Does a round. `released` are UIDs of pods whose finalizer was removed, which the cache may not show yet.
pub(super) fn count(status: &mut JobStatus, pods: &[Arc<Pod>], released: &HashSet<String>) -> Counts {
    let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let tracked: HashSet<&str> = pods
        .iter()
        .filter(|pod| is_tracked(pod) && !released.contains(uid(&pod.metadata)))
        .map(|pod| uid(&pod.metadata))
        .collect();
    let settle = |uids: Option<Vec<String>>, number: &mut Option<i32>| {
        let (waiting, counted): (Vec<_>, Vec<_>) =
            uids.unwrap_or_default().into_iter().partition(|uid| tracked.contains(uid.as_str()));
        if !counted.is_empty() {
            *number =
                Some(number.unwrap_or(0).saturating_add(i32::try_from(counted.len()).unwrap_or(i32::MAX)));
        }
        BTreeSet::from_iter(waiting)
    };
    let mut succeeded = settle(uncounted.succeeded, &mut status.succeeded);
    let mut failed = settle(uncounted.failed, &mut status.failed);

    let mut counts = Counts::default();
    for pod in pods.iter().filter(|pod| tracked.contains(uid(&pod.metadata))) {
        let own = uid(&pod.metadata);
        if succeeded.contains(own) || failed.contains(own) {
            counts.to_release.push(pod.clone());
        } else if pods::phase(pod) == "Succeeded" {
            succeeded.insert(own.to_owned());
            counts.newly_succeeded += 1;
            counts.to_release.push(pod.clone());
        } else if pods::phase(pod) == "Failed" || pods::is_terminating(pod) {
            // A pod that was told to go does not complete the work any more.
            failed.insert(own.to_owned());
            counts.newly_failed += 1;
            counts.to_release.push(pod.clone());
        }
    }
    let total = |number: Option<i32>, uids: &BTreeSet<String>| {
        number.unwrap_or(0).saturating_add(i32::try_from(uids.len()).unwrap_or(i32::MAX))
    };
    counts.succeeded = total(status.succeeded, &succeeded);
    counts.failed = total(status.failed, &failed);
    counts.complete = succeeded.is_empty() && failed.is_empty();
    let list = |uids: BTreeSet<String>| Some(Vec::from_iter(uids)).filter(|uids| !uids.is_empty());
    status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: list(succeeded), failed: list(failed) });
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn ended(name: &str, phase: &str) -> Arc<Pod> {
        let mut pod = pod(name);
        pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        pod.status.get_or_insert_default().phase = Some(phase.to_owned());
        Arc::new(pod)
    }

    #[test]
    fn a_pod_is_counted_once_however_often_it_is_looked_at() {
        let mut status = JobStatus::default();
        let pods = [ended("a", "Succeeded"), ended("b", "Failed"), ended("c", "Running")];
        let none = HashSet::new();
        let first = count(&mut status, &pods, &none);
        assert_eq!((first.succeeded, first.failed, first.newly_succeeded, first.complete), (1, 1, 1, false));
        assert_eq!(status.succeeded, None, "not before the finalizer is gone");
        let second = count(&mut status, &pods, &none);
        assert_eq!((second.succeeded, second.newly_succeeded, second.to_release.len()), (1, 0, 2));
        let released = HashSet::from(["uid-a".to_owned(), "uid-b".to_owned()]);
        let third = count(&mut status, &pods, &released);
        assert_eq!((third.succeeded, third.failed, third.complete), (1, 1, true));
        let fourth = count(&mut status, &[], &none);
        assert_eq!((fourth.succeeded, status.succeeded, status.failed), (1, Some(1), Some(1)));
    }

    #[test]
    fn a_pod_that_is_deleted_while_it_runs_has_failed() {
        let mut status = JobStatus::default();
        let mut leaving = Pod::clone(&ended("a", "Running"));
        leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
        assert_eq!(count(&mut status, &[Arc::new(leaving)], &HashSet::new()).failed, 1);
    }
}
