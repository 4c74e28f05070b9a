//! Aims at topology spread constraints that need not be kept (`whenUnsatisfiable: ScheduleAnyway`).

use std::collections::HashMap;

use super::stretch_reversed;
use crate::{
    filter::spread::{counts_for, matching},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

pub(super) fn points(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let mut costs = vec![0; nodes.len()];
    for rule in pod.spread.iter().filter(|rule| !rule.required) {
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for node in snapshot.nodes.iter().filter(|node| counts_for(pod, rule, node)) {
            if let Some(value) = node.labels.get(&rule.topology_key) {
                *counts.entry(value).or_default() += matching(pod, rule, node);
            }
        }
        // A node outside the topology is as bad as the fullest domain: going there does nothing for the spread.
        let fullest = counts.values().max().copied().unwrap_or(0);
        for (cost, node) in costs.iter_mut().zip(nodes) {
            let value = node.labels.get(&rule.topology_key);
            *cost += value.and_then(|value| counts.get(value.as_str())).copied().unwrap_or(fullest);
        }
    }
    stretch_reversed(costs)
}
