//! Keeps pods off nodes that their operator closed (`kubectl cordon`).

use k8s_openapi::api::core::v1::Taint;

use super::{Check, because};
use crate::{pod::PodInfo, snapshot::Snapshot, terms};

pub(super) fn prepare<'a>(_: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    if terms::tolerated(&taint, &pod.tolerations) {
        return None;
    }
    Some(Box::new(|node| if node.unschedulable { because("node(s) were unschedulable") } else { Ok(()) }))
}
