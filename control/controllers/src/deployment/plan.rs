//! What is to be done next for a Deployment, decided from what is there.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    jiff::Timestamp,
};

use super::{
    numbers::{self, size, sum},
    revision::{self, REVISION, Sets},
    scale,
    status::{self, Finding, PROGRESSING},
};
use crate::key::name;

/// One step towards what the Deployment asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Make a set for the present template.
    Create(Box<ReplicaSet>),
    /// Write a set that has a new size.
    Resize {
        /// The size that it had.
        from: i32,
        /// The size that it gets.
        to: i32,
        /// The set as it is to be.
        set: Box<ReplicaSet>,
    },
    /// Write a set whose annotations or minimum ready time changed.
    Update(Box<ReplicaSet>),
    /// Delete a set that is too old to go back to.
    Delete(Arc<ReplicaSet>),
    /// Note the present revision on the Deployment.
    SetRevision(String),
}

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// To be done in this order.
    pub(super) actions: Vec<Action>,
    /// To be written afterwards.
    pub(super) status: DeploymentStatus,
    /// When to look again although nothing changed.
    pub(super) again: Option<Duration>,
}

// === impl Action ===

impl Action {
    fn set_name(&self) -> Option<&str> {
        match self {
            Self::Create(set) | Self::Update(set) | Self::Resize { set, .. } => Some(name(&set.metadata)),
            Self::Delete(set) => Some(name(&set.metadata)),
            Self::SetRevision(_) => None,
        }
    }
}

/// Plans one step. `old_pods_running` says whether pods of old sets are still there, which only Recreate asks.
///
/// A step does one kind of thing, as the controller of Kubernetes does, and the changes that it causes lead to the next: so
/// each decision is taken with numbers that are true.
pub(super) fn plan(
    deployment: &Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    old_pods_running: bool,
    now: Timestamp,
) -> Plan {
    let sets = Sets::new(deployment, sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        return Plan { actions: Vec::new(), status: status::counted(deployment, &sets, now), again: None };
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    if paused || scale::was_scaled(deployment, &sets) {
        let scaling = scale_only(deployment, &sets, paused, now);
        // Nothing to resize although the noted number differs: an edited annotation must not hold up the rollout.
        if paused || !scaling.actions.is_empty() {
            return scaling;
        }
    }
    if numbers::is_rolling(deployment) {
        roll(deployment, &sets, now)
    } else {
        recreate(deployment, &sets, old_pods_running, now)
    }
}

fn scale_only(deployment: &Deployment, sets: &Sets, paused: bool, now: Timestamp) -> Plan {
    let mut actions: Vec<_> = update_new(deployment, sets).into_iter().collect();
    for action in scale::to_wanted(deployment, sets) {
        // Two writes of one set in a step would conflict; the second follows when the first is seen.
        if !actions.iter().any(|other| other.set_name() == action.set_name()) {
            actions.push(action);
        }
    }
    if paused {
        actions.extend(surplus_history(deployment, sets));
    }
    let mut status = status::counted(deployment, sets, now);
    if let Some(finding) = status::pause_finding(deployment) {
        status::set(&mut status, finding, now);
    }
    Plan { actions, status, again: None }
}

fn roll(deployment: &Deployment, sets: &Sets, now: Timestamp) -> Plan {
    if sets.new.is_none() {
        return start(deployment, sets, now);
    }
    let mut actions = note_revision(deployment, sets);
    if actions.is_empty() {
        actions.extend(scale::new_set(deployment, sets));
    }
    if actions.is_empty() {
        actions = scale::old_sets(deployment, sets);
    }
    finish(deployment, sets, actions, now)
}

fn recreate(deployment: &Deployment, sets: &Sets, old_pods_running: bool, now: Timestamp) -> Plan {
    let stop = scale::stop_old_sets(deployment, sets);
    if !stop.is_empty() {
        return finish(deployment, sets, stop, now);
    }
    let counted =
        sum(sets.old.iter().map(|set| &**set), |set| set.status.as_ref().map_or(0, |status| status.replicas));
    if old_pods_running || counted > 0 {
        return finish(deployment, sets, Vec::new(), now);
    }
    if sets.new.is_none() {
        return start(deployment, sets, now);
    }
    let mut actions = note_revision(deployment, sets);
    if actions.is_empty() {
        actions.extend(scale::new_set(deployment, sets));
    }
    finish(deployment, sets, actions, now)
}

/// Makes the set of a new revision, with as many pods as there is room for.
fn start(deployment: &Deployment, sets: &Sets, now: Timestamp) -> Plan {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let mut set = revision::make(deployment, collisions, sets.new_revision());
    let size = numbers::new_size(deployment, 0, sum(sets.all(), size));
    revision::set_size(deployment, &mut set, size);
    let found = Finding {
        type_: PROGRESSING,
        status: "True",
        reason: "NewReplicaSetCreated",
        message: format!("Created new replica set \"{}\"", name(&set.metadata)),
    };
    let mut actions = vec![Action::Create(Box::new(set))];
    actions.extend(set_revision(deployment, sets.new_revision().to_string()));
    let mut status = status::counted(deployment, sets, now);
    if status::deadline(deployment).is_some() {
        status::set(&mut status, found, now);
    }
    // The creation is what starts the deadline; the set's appearance leads to the next step.
    Plan { actions, status, again: None }
}

/// Brings the present set's annotations, and the Deployment's revision, up to date.
fn note_revision(deployment: &Deployment, sets: &Sets) -> Vec<Action> {
    if let Some(update) = update_new(deployment, sets) {
        return vec![update];
    }
    let revision = sets.new.as_ref().map_or(0, |set| revision::revision(set));
    set_revision(deployment, revision.to_string()).into_iter().collect()
}

fn update_new(deployment: &Deployment, sets: &Sets) -> Option<Action> {
    let mut set = ReplicaSet::clone(sets.new.as_ref()?);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
    let mut changed = revision::annotate(deployment, &mut set, sets.new_revision());
    let spec = set.spec.get_or_insert_default();
    if spec.min_ready_seconds.unwrap_or(0) != wanted.unwrap_or(0) {
        spec.min_ready_seconds = wanted;
        changed = true;
    }
    changed.then(|| Action::Update(Box::new(set)))
}

fn set_revision(deployment: &Deployment, revision: String) -> Option<Action> {
    let known = revision::annotation(&deployment.metadata, REVISION);
    (known != Some(revision.as_str())).then_some(Action::SetRevision(revision))
}

fn finish(deployment: &Deployment, sets: &Sets, mut actions: Vec<Action>, now: Timestamp) -> Plan {
    let (mut status, again) = status::rolled(deployment, sets, now);
    if let Some(set) = &sets.new
        && status::deadline(deployment).is_some()
        && !status::has(&status, PROGRESSING)
    {
        let message = format!("Found new replica set \"{}\"", name(&set.metadata));
        let found = Finding { type_: PROGRESSING, status: "True", reason: "FoundNewReplicaSet", message };
        status::set(&mut status, found, now);
    }
    if let Some(finding) = status::pause_finding(deployment) {
        status::set(&mut status, finding, now);
    }
    if status::is_complete(deployment, &status) {
        actions.extend(surplus_history(deployment, sets));
    }
    Plan { actions, status, again }
}

/// Old sets without pods beyond those that are kept to go back to; the oldest revisions go.
fn surplus_history(deployment: &Deployment, sets: &Sets) -> Vec<Action> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(i32::MAX);
    let mut old: Vec<_> = sets.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by(|a, b| {
        revision::revision(a).cmp(&revision::revision(b)).then_with(|| revision::by_age(a, b))
    });
    let is_idle = |set: &ReplicaSet| {
        let status = set.status.clone().unwrap_or_default();
        status.replicas == 0 && size(set) == 0 && status.observed_generation >= set.metadata.generation
    };
    old.into_iter().take(surplus).filter(|set| is_idle(set)).cloned().map(Action::Delete).collect()
}

#[cfg(test)]
mod tests;
