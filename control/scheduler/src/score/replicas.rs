//! Prefers nodes with few pods of the same controller, so that a lost node costs a service as little as possible.

use super::stretch_reversed;
use crate::{
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

pub(super) fn points(_: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let controller = pod.controller.as_ref()?;
    let count = |node: &&NodeInfo| {
        let siblings = node
            .pods
            .iter()
            .filter(|other| !other.terminating && other.controller.as_ref() == Some(controller));
        siblings.count() as i64
    };
    stretch_reversed(nodes.iter().map(count).collect())
}
