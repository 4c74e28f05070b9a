//! The cluster at one moment, immutable.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::{pod::PodInfo, resources::Resources, terms::Labels};

/// What the scheduler knows of a node, and what runs there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeInfo {
    /// The node's name.
    pub name: String,
    /// The node's labels.
    pub labels: Labels,
    /// Closed for new pods by its operator.
    pub unschedulable: bool,
    /// Taints of the node, and those that its conditions imply.
    pub taints: Vec<Taint>,
    /// What pods may use together.
    pub allocatable: Resources,
    /// Pods on the node, those being bound included.
    pub pods: Vec<Arc<PodInfo>>,
    /// Sum of what `pods` request.
    pub requested: Resources,
    /// Sum of what `pods` are taken to use when nodes are compared.
    pub assumed_use: Resources,
}

/// All nodes and namespaces at one moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Nodes in the order of their names.
    pub nodes: Arc<[Arc<NodeInfo>]>,
    /// Labels of every namespace.
    pub namespaces: Arc<BTreeMap<String, Labels>>,
}

// === impl NodeInfo ===

impl NodeInfo {
    /// Takes over what the API object says; pods stay as they are.
    pub fn update(&mut self, node: &Node) {
        self.name = node.metadata.name.clone().unwrap_or_default();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        self.unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        self.taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        for implied in implied_taints(node) {
            if !self.taints.iter().any(|taint| taint.key == implied.key && taint.effect == implied.effect) {
                self.taints.push(implied);
            }
        }
        let status = node.status.as_ref();
        let offered = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        self.allocatable = Resources::from_quantities(offered);
    }

    /// Counts a pod in.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.assumed_use.add(&pod.assumed_use);
        self.pods.push(pod);
    }

    /// Counts a pod out.
    pub fn remove(&mut self, pod: &PodInfo) {
        let Some(index) = self.pods.iter().position(|other| other.key == pod.key) else { return };
        let pod = self.pods.swap_remove(index);
        self.requested.subtract(&pod.requests);
        self.assumed_use.subtract(&pod.assumed_use);
    }

    /// Whether the two differ in something that decides over pods (the pods themselves aside).
    pub fn offers_same(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.unschedulable == other.unschedulable
            && self.taints == other.taints
            && self.allocatable == other.allocatable
    }
}

/// The taints that the node lifecycle controller derives from conditions. The scheduler does not wait for it: between a
/// node's registration and the controller's write nothing would keep pods away from a node that is not ready.
fn implied_taints(node: &Node) -> Vec<Taint> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let status = |type_: &str| conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str());
    let mut keys = Vec::new();
    match status("Ready") {
        Some("True") => {}
        Some("Unknown") => keys.push("node.kubernetes.io/unreachable"),
        _ => keys.push("node.kubernetes.io/not-ready"),
    }
    for (condition, key) in [
        ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
        ("DiskPressure", "node.kubernetes.io/disk-pressure"),
        ("PIDPressure", "node.kubernetes.io/pid-pressure"),
        ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
    ] {
        if status(condition) == Some("True") {
            keys.push(key);
        }
    }
    let taint =
        |key: &str| Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Default::default() };
    keys.into_iter().map(taint).collect()
}
