//! What a ReplicaSet says about itself.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use crate::pods;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What went wrong with making or deleting pods.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The status for a ReplicaSet with these active pods, and after which time it may change without anything happening.
pub(super) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template =
        spec.and_then(|spec| spec.template.as_ref()).and_then(|template| template.metadata.as_ref());
    let template_labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let fully_labeled = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    };
    let waits: Vec<Duration> =
        pods.iter().filter_map(|pod| pods::until_available(pod, min_ready, now)).collect();
    let available = waits.iter().filter(|wait| wait.is_zero()).count();

    let old = set.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some(failure) => {
            let known = conditions
                .iter()
                .any(|c| c.type_ == REPLICA_FAILURE && c.reason.as_deref() == Some(failure.reason));
            if !known {
                conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
                conditions.push(ReplicaSetCondition {
                    type_: REPLICA_FAILURE.to_owned(),
                    status: "True".to_owned(),
                    reason: Some(failure.reason.to_owned()),
                    message: Some(failure.message.clone()),
                    last_transition_time: Some(Time(now)),
                });
            }
        }
    }
    let status = ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: nonzero(pods.iter().filter(|pod| fully_labeled(pod)).count()),
        ready_replicas: nonzero(waits.len()),
        available_replicas: nonzero(available),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
        terminating_replicas: None,
    };
    (status, waits.into_iter().filter(|wait| !wait.is_zero()).min())
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Kubernetes leaves counts of zero out.
fn nonzero(number: usize) -> Option<i32> {
    Some(count(number)).filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod, ready_pod, replica_set};

    #[test]
    fn pods_are_available_only_after_they_stayed_ready() {
        let mut set = replica_set("web-1", "a", 3, 0);
        set.spec.get_or_insert_default().min_ready_seconds = Some(10);
        let pods = [ready_pod("a", "n", 0), ready_pod("b", "n", 95), pod("c")].map(Arc::new);
        let (status, wait) = status(&set, &pods, None, at(100));
        assert_eq!(
            (status.replicas, status.ready_replicas, status.available_replicas),
            (3, Some(2), Some(1))
        );
        assert_eq!(wait, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_failure_is_shown_until_it_is_over() {
        let mut set = replica_set("web-1", "a", 3, 0);
        let failure = Failure { reason: "FailedCreate", message: "no".to_owned() };
        let (failed, _) = status(&set, &[], Some(&failure), at(1));
        assert_eq!(failed.conditions.as_ref().map(Vec::len), Some(1));
        set.status = Some(failed.clone());
        assert_eq!(status(&set, &[], Some(&failure), at(2)).0, failed, "the time of the first failure stays");
        assert_eq!(status(&set, &[], None, at(3)).0.conditions, None);
    }
}
