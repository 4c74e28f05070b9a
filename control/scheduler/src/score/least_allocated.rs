//! Prefers nodes with much left free.

use super::MAX;
use crate::{
    pod::PodInfo,
    resources::{CPU, MEMORY},
    snapshot::{NodeInfo, Snapshot},
};

pub(super) fn points(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let free = |node: &NodeInfo, name: &str| {
        let capacity = node.allocatable.get(name);
        let used = node.assumed_use.get(name).saturating_add(pod.assumed_use.get(name));
        if capacity <= 0 || used >= capacity {
            0
        } else {
            ((capacity - used) as f64 / capacity as f64 * MAX as f64) as i64
        }
    };
    Some(nodes.iter().map(|node| (free(node, CPU) + free(node, MEMORY)) / 2).collect())
}
