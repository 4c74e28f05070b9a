//! What a Deployment says about itself.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use super::{
    numbers::{self, available, size, sum},
    revision::Sets,
};
use crate::key::name;

pub(super) const AVAILABLE: &str = "Available";
pub(super) const PROGRESSING: &str = "Progressing";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// A condition's content without its times.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) type_: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The numbers, the condition `Available`, and everything else as it was.
pub(super) fn counted(deployment: &Deployment, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let available_replicas = sum(sets.all(), available);
    let unavailable = sum(sets.all(), size) - available_replicas;
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(sets.all(), actual)),
        updated_replicas: nonzero(sets.new.as_deref().map_or(0, actual)),
        ready_replicas: nonzero(sum(sets.all(), ready)),
        available_replicas: nonzero(available_replicas),
        unavailable_replicas: nonzero(unavailable.max(0)),
        terminating_replicas: None,
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available_replicas >= numbers::replicas(deployment) - numbers::max_unavailable(deployment);
    let finding = if enough {
        Finding {
            type_: AVAILABLE,
            status: "True",
            reason: "MinimumReplicasAvailable",
            message: "Deployment has minimum availability.".to_owned(),
        }
    } else {
        Finding {
            type_: AVAILABLE,
            status: "False",
            reason: "MinimumReplicasUnavailable",
            message: "Deployment does not have minimum availability.".to_owned(),
        }
    };
    set(&mut status, finding, now);
    status
}

/// The numbers and conditions of a rollout that is not paused, and after which time its deadline passes.
pub(super) fn rolled(
    deployment: &Deployment,
    sets: &Sets,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = counted(deployment, sets, now);
    match deadline(deployment) {
        None => remove(&mut status, PROGRESSING),
        Some(deadline) => progress(&mut status, deployment, sets, deadline, now),
    }
    let conditions = |set: &ReplicaSet| {
        set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
    };
    let failure =
        sets.new.iter().chain(&sets.old).flat_map(|set| conditions(set)).find(|c| c.type_ == REPLICA_FAILURE);
    match failure {
        None => remove(&mut status, REPLICA_FAILURE),
        Some(failure) => {
            let reason = match failure.reason.as_deref() {
                Some("FailedDelete") => "FailedDelete",
                _ => "FailedCreate",
            };
            let message = failure.message.unwrap_or_default();
            set(&mut status, Finding { type_: REPLICA_FAILURE, status: "True", reason, message }, now);
        }
    }
    let wait = until_deadline(deployment, &status, now);
    (status, wait)
}

fn progress(
    status: &mut DeploymentStatus,
    deployment: &Deployment,
    sets: &Sets,
    deadline: SignedDuration,
    now: Timestamp,
) {
    let known = get(status, PROGRESSING).cloned();
    let reason = known.as_ref().and_then(|known| known.reason.as_deref());
    // Once complete, a crash of a pod later is not a rollout that got stuck.
    if status.replicas == status.updated_replicas && reason == Some(NEW_SET_AVAILABLE) {
        return;
    }
    let subject = match &sets.new {
        Some(set) => format!("ReplicaSet \"{}\"", name(&set.metadata)),
        None => format!("Deployment \"{}\"", name(&deployment.metadata)),
    };
    let finding = |status, reason, what: &str| Finding {
        type_: PROGRESSING,
        status,
        reason,
        message: format!("{subject} {what}."),
    };
    if is_complete(deployment, status) {
        set(status, finding("True", NEW_SET_AVAILABLE, "has successfully progressed"), now);
    } else if has_progressed(deployment, status) {
        // Each step restarts the deadline, so the condition is written anew even if it says the same.
        remove(status, PROGRESSING);
        set(status, finding("True", "ReplicaSetUpdated", "is progressing"), now);
        let since = known.filter(|known| known.status == "True").and_then(|known| known.last_transition_time);
        if let (Some(condition), Some(since)) = (get_mut(status, PROGRESSING), since) {
            condition.last_transition_time = Some(since);
        }
    } else if let Some(known) = known
        && known.reason.as_deref() != Some(NEW_SET_AVAILABLE)
        && (known.reason.as_deref() == Some(TIMED_OUT)
            || known.last_update_time.is_some_and(|t| t.0 + deadline < now))
    {
        set(status, finding("False", TIMED_OUT, "has timed out progressing"), now);
    }
}

/// Whether every pod is of the present template and available.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(numbers::replicas(deployment)).filter(|wanted| *wanted != 0);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let number = |number: Option<i32>| number.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(new.updated_replicas) > number(old.updated_replicas)
        || outdated(new) < outdated(&old)
        || number(new.ready_replicas) > number(old.ready_replicas)
        || number(new.available_replicas) > number(old.available_replicas)
}

/// The time that a rollout may stand still; none if it may for ever.
pub(super) fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(i64::from(seconds)))
}

fn until_deadline(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(deployment)?;
    let known = get(status, PROGRESSING)?;
    if is_complete(deployment, status)
        || matches!(known.reason.as_deref(), Some(TIMED_OUT | NEW_SET_AVAILABLE))
    {
        return None;
    }
    let passes = known.last_update_time.as_ref()?.0 + deadline;
    // A second more, because conditions keep whole seconds.
    Some(Duration::try_from(passes.duration_since(now)).unwrap_or(Duration::ZERO) + Duration::from_secs(1))
}

/// The condition about a pause or its end, if the Deployment does not have it yet.
pub(super) fn pause_finding(deployment: &Deployment) -> Option<Finding> {
    deadline(deployment)?;
    let known = deployment.status.as_ref().and_then(|status| get(status, PROGRESSING));
    let reason = known.and_then(|known| known.reason.as_deref());
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    let finding = |reason, message: &str| {
        Some(Finding { type_: PROGRESSING, status: "Unknown", reason, message: message.to_owned() })
    };
    match (paused, reason) {
        // A rollout that ran out of time stays so: automation must not take the pause for a way out.
        (_, Some(TIMED_OUT)) => None,
        (true, reason) if reason != Some("DeploymentPaused") => {
            finding("DeploymentPaused", "Deployment is paused")
        }
        (false, Some("DeploymentPaused")) => finding("DeploymentResumed", "Deployment is resumed"),
        _ => None,
    }
}

/// Takes over a condition. One that says the same keeps its times; one with the same status the time of its transition.
pub(super) fn set(status: &mut DeploymentStatus, finding: Finding, now: Timestamp) {
    let known = get(status, finding.type_);
    if known.is_some_and(|known| {
        known.status == finding.status && known.reason.as_deref() == Some(finding.reason)
    }) {
        return;
    }
    let since = known
        .filter(|known| known.status == finding.status)
        .and_then(|known| known.last_transition_time.clone());
    remove(status, finding.type_);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: finding.type_.to_owned(),
        status: finding.status.to_owned(),
        reason: Some(finding.reason.to_owned()),
        message: Some(finding.message),
        last_update_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    });
}

/// Whether there is a condition of this type.
pub(super) fn has(status: &DeploymentStatus, type_: &str) -> bool {
    get(status, type_).is_some()
}

fn get<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn get_mut<'a>(status: &'a mut DeploymentStatus, type_: &str) -> Option<&'a mut DeploymentCondition> {
    status.conditions.iter_mut().flatten().find(|condition| condition.type_ == type_)
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

/// Kubernetes leaves counts of zero out.
fn nonzero(number: i32) -> Option<i32> {
    Some(number).filter(|number| *number != 0)
}
