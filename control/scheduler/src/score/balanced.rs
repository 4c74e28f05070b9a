//! Prefers nodes whose processor and memory would be used in equal parts, so that neither is stranded.

use super::MAX;
use crate::{
    pod::PodInfo,
    resources::{CPU, MEMORY},
    snapshot::{NodeInfo, Snapshot},
};

pub(super) fn points(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let part = |node: &NodeInfo, name: &str| {
        let used = node.requested.get(name).saturating_add(pod.requests.get(name));
        let capacity = node.allocatable.get(name);
        if capacity <= 0 { 1.0 } else { (used as f64 / capacity as f64).min(1.0) }
    };
    let points = |node: &&NodeInfo| {
        let deviation = (part(node, CPU) - part(node, MEMORY)).abs() / 2.0;
        ((1.0 - deviation) * MAX as f64) as i64
    };
    Some(nodes.iter().map(points).collect())
}
