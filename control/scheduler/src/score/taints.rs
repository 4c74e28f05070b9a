//! Avoids nodes whose taints ask for it (`PreferNoSchedule`).

use super::stretch_reversed;
use crate::{
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
    terms,
};

pub(super) fn points(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let count = |node: &&NodeInfo| {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !terms::tolerated(taint, &pod.tolerations)).count() as i64
    };
    stretch_reversed(nodes.iter().map(count).collect())
}
