//! Resizing the ReplicaSets of a Deployment: to a new number of pods, and from one revision to the next.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{
    numbers::{self, available, size, sum},
    plan::Action,
    revision::{self, DESIRED_REPLICAS, MAX_REPLICAS, Sets},
};

/// Whether somebody changed the number of replicas since the active sets were last resized.
pub(super) fn was_scaled(deployment: &Deployment, sets: &Sets) -> bool {
    let wanted = numbers::replicas(deployment).to_string();
    sets.all().filter(|set| size(set) > 0).any(|set| {
        revision::annotation(&set.metadata, DESIRED_REPLICAS).is_some_and(|desired| desired != wanted)
    })
}

/// Brings all sets together to the wanted number of pods, without moving from one revision to another.
pub(super) fn to_wanted(deployment: &Deployment, sets: &Sets) -> Vec<Action> {
    let wanted = numbers::replicas(deployment);
    let active: Vec<_> = sets.all().filter(|set| size(set) > 0).collect();
    if let [] | [_] = active.as_slice() {
        let latest_old = sets.old.iter().max_by(|a, b| revision::by_age(a, b)).map(|set| &**set);
        let only = active.first().copied().or(sets.new.as_deref()).or(latest_old);
        return only.and_then(|set| resize_from(deployment, set, wanted)).into_iter().collect();
    }
    // The newest has all pods already: what the others still have is surplus.
    if let Some(new) = &sets.new
        && is_saturated(deployment, new)
    {
        return sets
            .old
            .iter()
            .filter(|set| size(set) > 0)
            .filter_map(|set| resize(deployment, set, 0))
            .collect();
    }
    if numbers::is_rolling(deployment) { proportionally(deployment, active) } else { Vec::new() }
}

/// Gives every active set its share of the change, the remainder to the largest, so that a rollout that is under way
/// keeps its balance.
fn proportionally(deployment: &Deployment, mut active: Vec<&ReplicaSet>) -> Vec<Action> {
    let wanted = numbers::replicas(deployment);
    let allowed = if wanted > 0 { wanted.saturating_add(numbers::max_surge(deployment)) } else { 0 };
    let change = allowed - sum(active.iter().copied(), size);
    active.sort_by(|a, b| {
        let age = revision::by_age(a, b);
        // Growing prefers the newer of equals, shrinking the older.
        size(b).cmp(&size(a)).then(if change > 0 { age.reverse() } else { age })
    });
    let mut given = 0;
    let mut sizes: Vec<i32> = Vec::new();
    for set in &active {
        let share = share(deployment, set);
        let rest = change - given;
        let share = match change.signum() {
            1 => share.min(rest).max(0),
            -1 => share.max(rest).min(0),
            _ => 0,
        };
        given += share;
        sizes.push(size(set) + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + change - given).max(0);
    }
    active.iter().zip(sizes).filter_map(|(set, size)| resize(deployment, set, size)).collect()
}

/// By how much a set would change if it kept its part of the whole.
fn share(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    let wanted = numbers::replicas(deployment);
    if wanted == 0 {
        return -size(set);
    }
    let now = i64::from(wanted.saturating_add(numbers::max_surge(deployment)));
    let noted = revision::annotation(&set.metadata, MAX_REPLICAS).and_then(|most| most.parse::<i64>().ok());
    let status = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let before = noted.filter(|most| *most > 0).unwrap_or(i64::from(status)).max(1);
    let new_size = (i64::from(size(set)) * now + before / 2) / before;
    i32::try_from(new_size).unwrap_or(i32::MAX) - size(set)
}

fn is_saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let wanted = numbers::replicas(deployment);
    let noted =
        revision::annotation(&new.metadata, DESIRED_REPLICAS).and_then(|desired| desired.parse().ok());
    size(new) == wanted && noted == Some(wanted) && available(new) == wanted
}

/// Grows the newest set into the room that the surge leaves, or shrinks it to what is wanted.
pub(super) fn new_set(deployment: &Deployment, sets: &Sets) -> Option<Action> {
    let new = sets.new.as_deref()?;
    let wanted = numbers::replicas(deployment);
    let target = if size(new) > wanted {
        wanted
    } else {
        numbers::new_size(deployment, size(new), sum(sets.all(), size))
    };
    resize_from(deployment, new, target)
}

/// Shrinks the old sets as far as enough pods stay available: first pods that are not available anyway, then others.
pub(super) fn old_sets(deployment: &Deployment, sets: &Sets) -> Vec<Action> {
    let mut old: Vec<&Arc<ReplicaSet>> = sets.old.iter().filter(|set| size(set) > 0).collect();
    old.sort_by(|a, b| revision::by_age(a, b));
    let must_stay = numbers::replicas(deployment) - numbers::max_unavailable(deployment);
    // Pods of the newest set that are not available yet must not be counted on.
    let new_unavailable = sets.new.as_ref().map_or(0, |set| size(set) - available(set));
    let mut removable = sum(sets.all(), size) - must_stay - new_unavailable;
    if removable <= 0 {
        return Vec::new();
    }
    let mut targets: Vec<i32> = old.iter().map(|set| size(set)).collect();
    for (set, target) in old.iter().zip(&mut targets) {
        let unhealthy = (size(set) - available(set)).max(0).min(removable);
        *target -= unhealthy;
        removable -= unhealthy;
    }
    let mut removable = sum(sets.all(), available) - must_stay;
    for target in &mut targets {
        let removed = removable.max(0).min(*target);
        *target -= removed;
        removable -= removed;
    }
    old.iter().zip(targets).filter_map(|(set, target)| resize_from(deployment, set, target)).collect()
}

/// Takes all pods from the old sets.
pub(super) fn stop_old_sets(deployment: &Deployment, sets: &Sets) -> Vec<Action> {
    sets.old.iter().filter_map(|set| resize_from(deployment, set, 0)).collect()
}

/// A resize, if the size differs.
fn resize_from(deployment: &Deployment, set: &ReplicaSet, to: i32) -> Option<Action> {
    if size(set) == to { None } else { resize(deployment, set, to) }
}

/// A resize, if the size or the noted numbers differ.
fn resize(deployment: &Deployment, set: &ReplicaSet, to: i32) -> Option<Action> {
    let mut resized = set.clone();
    revision::set_size(deployment, &mut resized, to).then(|| Action::Resize {
        from: size(set),
        to,
        set: Box::new(resized),
    })
}
