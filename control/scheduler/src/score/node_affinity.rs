//! Prefers nodes that meet the pod's preferred node affinity.

use super::stretch;
use crate::{
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

pub(super) fn points(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    if pod.preferred_nodes.is_empty() {
        return None;
    }
    let sum = |node: &&NodeInfo| {
        let met = pod.preferred_nodes.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
        met.map(|(weight, _)| weight).sum()
    };
    stretch(nodes.iter().map(sum).collect())
}
