//! Holds a pod to the node that it names.

use super::{Check, because};
use crate::{pod::PodInfo, snapshot::Snapshot};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    let wanted = pod.node_name.as_deref()?;
    Some(Box::new(move |node| {
        if node.name == wanted { Ok(()) } else { because("node(s) didn't match the requested node name") }
    }))
}
