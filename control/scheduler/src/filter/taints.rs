//! Keeps pods off nodes with taints that they do not tolerate; a node that is not ready counts as tainted.

use crate::{pod::PodInfo, snapshot::Snapshot, terms};

use super::Check;

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    Some(Box::new(|node| {
        let repelling =
            node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
        match repelling.into_iter().find(|taint| !terms::tolerated(taint, &pod.tolerations)) {
            None => Ok(()),
            Some(taint) => {
                let value = taint.value.as_deref().unwrap_or_default();
                Err(vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key).into()])
            }
        }
    }))
}
