//! What a node's silence or its own words mean for its conditions and taints.

use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that only the node knows, and nobody when it is silent.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions that keep pods away, with the taint that does it.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// Status of the condition `Ready`; a node that never said counts as not ready.
pub(super) fn ready(node: &Node) -> &str {
    status(node, "Ready").unwrap_or("False")
}

/// The conditions to write for a node that has been silent for too long; empty if they say so already.
pub(super) fn silenced(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let unknown = |type_: &&str| {
        let known = conditions.iter().find(|condition| condition.type_ == **type_);
        if known.is_some_and(|known| known.status == "Unknown") {
            return None;
        }
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        Some(NodeCondition {
            type_: (*type_).to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: known
                .and_then(|known| known.last_heartbeat_time.clone())
                .or_else(|| node.metadata.creation_timestamp.clone()),
            last_transition_time: Some(Time(now)),
        })
    };
    REPORTED.iter().filter_map(unknown).collect()
}

/// How the taint that drives pods out is to be treated now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// It may be added.
    Allowed,
    /// It stays where it is and is added nowhere.
    Held,
    /// It is taken away: so many nodes look dead that the fault is likely not theirs.
    Suspended,
}

/// The taints that the node should have; `None` if it has them.
pub(super) fn taints(node: &Node, eviction: Eviction, now: Timestamp) -> Option<Vec<Taint>> {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let ready_taint = match ready(node) {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    wanted.extend(ready_taint.map(|key| (key, "NoSchedule")));
    let has_evicting =
        |key: &str| current.iter().any(|taint| taint.key == key && taint.effect == "NoExecute");
    if let Some(key) = ready_taint
        && (eviction == Eviction::Allowed || eviction == Eviction::Held && has_evicting(key))
    {
        wanted.push((key, "NoExecute"));
    }
    wanted.extend(
        PRESSURES
            .iter()
            .filter(|(c, _)| status(node, c) == Some("True"))
            .map(|(_, key)| (*key, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }

    let is_ours = |taint: &Taint| {
        let keys =
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].into_iter().chain(PRESSURES.iter().map(|(_, key)| *key));
        keys.into_iter().any(|key| key == taint.key)
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> =
        current.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(Time(now)),
                value: None,
            });
        }
    }
    (taints != current).then_some(taints)
}

fn status<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    pub(crate) fn node(ready: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("n".to_owned());
        let condition =
            NodeCondition { type_: "Ready".to_owned(), status: ready.to_owned(), ..Default::default() };
        node.status.get_or_insert_default().conditions = Some(vec![condition]);
        node
    }

    fn with(mut node: Node, taints: Vec<Taint>) -> Node {
        node.spec.get_or_insert_default().taints = Some(taints);
        node
    }

    fn effects(taints: &Option<Vec<Taint>>) -> Vec<(String, String)> {
        taints.iter().flatten().map(|taint| (taint.key.clone(), taint.effect.clone())).collect()
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let mut node = node("True");
        let conditions = silenced(&node, at(1));
        assert_eq!(conditions.len(), 4);
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        node.status.get_or_insert_default().conditions = Some(conditions);
        assert!(silenced(&node, at(2)).is_empty());
    }

    #[test]
    fn taints_follow_readiness_and_return_to_none() {
        let unreachable = taints(&node("Unknown"), Eviction::Allowed, at(1));
        let key = || UNREACHABLE.to_owned();
        assert_eq!(
            effects(&unreachable),
            [(key(), "NoSchedule".to_owned()), (key(), "NoExecute".to_owned())]
        );
        let tainted = with(node("Unknown"), unreachable.clone().unwrap_or_default());
        assert_eq!(taints(&tainted, Eviction::Allowed, at(9)), None, "the time of the first taint stays");
        let back = with(node("True"), unreachable.unwrap_or_default());
        assert_eq!(taints(&back, Eviction::Allowed, at(9)), Some(vec![]));
    }

    #[test]
    fn eviction_can_be_held_and_suspended() {
        let held = taints(&node("False"), Eviction::Held, at(1));
        assert_eq!(effects(&held), [(NOT_READY.to_owned(), "NoSchedule".to_owned())]);
        let evicting =
            with(node("False"), taints(&node("False"), Eviction::Allowed, at(1)).unwrap_or_default());
        assert_eq!(taints(&evicting, Eviction::Held, at(2)), None);
        assert_eq!(effects(&taints(&evicting, Eviction::Suspended, at(2))).len(), 1);
    }

    #[test]
    fn taints_of_others_are_left_alone_and_a_cordon_is_shown() {
        let other = Taint { key: "gpu".to_owned(), effect: "NoSchedule".to_owned(), ..Default::default() };
        let mut node = with(node("True"), vec![other]);
        assert_eq!(taints(&node, Eviction::Allowed, at(1)), None);
        node.spec.get_or_insert_default().unschedulable = Some(true);
        assert_eq!(effects(&taints(&node, Eviction::Allowed, at(1))).len(), 2);
    }
}
