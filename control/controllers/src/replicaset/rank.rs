//! Which pods a ReplicaSet gives up first.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Picks `count` of `pods` to delete, those that are missed least: without a node, not running, not ready, cheap by
/// annotation, on a node with many of their group, ready for a short time, often restarted, new; in this order.
///
/// `group` are the active pods of all ReplicaSets of the same Deployment.
pub(super) fn to_delete(mut pods: Vec<Arc<Pod>>, group: &[Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods;
    }
    let mut per_node: HashMap<&str, usize> = HashMap::new();
    for pod in group.iter().filter(|pod| pods::is_active(pod)) {
        *per_node.entry(pods::node(pod)).or_default() += 1;
    }
    let neighbours = |pod: &Pod| per_node.get(pods::node(pod)).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        // Smaller goes first.
        let assigned = |pod: &Pod| !pods::node(pod).is_empty();
        assigned(a)
            .cmp(&assigned(b))
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| neighbours(b).cmp(&neighbours(a)))
            .then_with(|| newest_first(pods::ready_since(a), pods::ready_since(b)))
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| {
                let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
                newest_first(created(a), created(b))
            })
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
    pods.truncate(count);
    pods
}

fn phase_rank(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

/// An unknown time counts as the newest.
fn newest_first<T: Ord>(a: Option<T>, b: Option<T>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => b.cmp(&a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pod, ready_pod};

    fn first(pods: Vec<Pod>) -> String {
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let chosen = to_delete(pods.clone(), &pods, 1);
        chosen[0].metadata.name.clone().unwrap_or_default()
    }

    #[test]
    fn pods_that_do_nothing_yet_go_first() {
        let mut unready = ready_pod("unready", "n", 0);
        unready.status.get_or_insert_default().conditions = None;
        assert_eq!(first(vec![ready_pod("ready", "n", 0), unready.clone(), pod("unassigned")]), "unassigned");
        assert_eq!(first(vec![ready_pod("ready", "n", 0), unready]), "unready");
    }

    #[test]
    fn among_ready_pods_cost_then_crowd_then_age_decide() {
        let mut cheap = ready_pod("cheap", "a", 0);
        cheap.metadata.annotations = Some([(DELETION_COST.to_owned(), "-5".to_owned())].into());
        assert_eq!(first(vec![ready_pod("x", "a", 9), cheap]), "cheap");
        let crowd = vec![ready_pod("alone", "a", 9), ready_pod("b1", "b", 1), ready_pod("b2", "b", 2)];
        assert_eq!(first(crowd), "b2");
        assert_eq!(first(vec![ready_pod("old", "a", 1), ready_pod("new", "a", 5)]), "new");
    }

    #[test]
    fn all_of_them_are_all_of_them() {
        let pods = vec![Arc::new(pod("a")), Arc::new(pod("b"))];
        assert_eq!(to_delete(pods.clone(), &pods, 5).len(), 2);
    }
}
