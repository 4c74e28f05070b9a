//! Holds a pod to nodes that its node selector and required node affinity accept.

use super::{Check, because};
use crate::{pod::PodInfo, snapshot::Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    if pod.node_selector.is_empty() && pod.node_terms.is_none() {
        return None;
    }
    Some(Box::new(|node| {
        if pod.accepts_node(&node.name, &node.labels) {
            Ok(())
        } else {
            because("node(s) didn't match Pod's node affinity/selector")
        }
    }))
}
