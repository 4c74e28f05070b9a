//! Checks that what the pod requests is free.

use std::borrow::Cow;

use super::Check;
use crate::{pod::PodInfo, resources::PODS, snapshot::Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    Some(Box::new(|node| {
        let mut reasons = Vec::new();
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.allocatable.get(PODS) {
            reasons.push(Cow::Borrowed("Too many pods"));
        }
        for (name, wanted) in pod.requests.iter() {
            // A resource that is not asked for never stands in the way, even when the node is overcommitted in it.
            if wanted > 0 && wanted > node.allocatable.get(name).saturating_sub(node.requested.get(name)) {
                reasons.push(format!("Insufficient {name}").into());
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }))
}
