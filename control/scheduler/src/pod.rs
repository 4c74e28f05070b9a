//! What the scheduler knows of a pod: its wishes, read and compiled once.

use std::{fmt, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, PodSpec, Toleration, TopologySpreadConstraint},
    jiff::Timestamp,
};
use kube::core::{Expression, ParseExpressionError, Selector};

use crate::{
    resources::{self, Resources},
    terms::{self, Labels, NodeTerm, PodTerm},
};

/// Namespace and name of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

/// Identity and wishes of a pod. Two values are equal when the scheduler would treat the pods alike.
#[derive(Debug, Clone, PartialEq)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: PodKey,
    /// Distinguishes pods that had the same name one after the other.
    pub uid: String,
    /// Labels that selectors of other pods look at.
    pub labels: Labels,
    /// Which pods go first: higher before lower.
    pub priority: i32,
    /// When the pod was made; older pods go first.
    pub created: Option<Timestamp>,
    /// The pod is on its way out: it holds its resources, and is no longer a member of its group.
    pub terminating: bool,
    /// UID of the controller that made the pod; replicas of one controller are spread.
    pub controller: Option<String>,
    /// The node that the pod asks for by name in `spec.nodeName`: kubelets check it too.
    pub node_name: Option<String>,
    /// What must be free on the node.
    pub requests: Resources,
    /// What the pod is taken to use when nodes are compared.
    pub assumed_use: Resources,
    /// Ports of the node that the pod takes.
    pub host_ports: Vec<HostPort>,
    /// Taints that the pod bears.
    pub tolerations: Vec<Toleration>,
    /// Labels that the node must have.
    pub node_selector: Labels,
    /// Alternatives of which the node must meet one; `None` accepts every node.
    pub node_terms: Option<Vec<NodeTerm>>,
    /// Weighted wishes about the node.
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// Pods that must be near.
    pub near: Vec<PodTerm>,
    /// Pods that must not be near.
    pub apart: Vec<PodTerm>,
    /// Weighted wishes about pods nearby; negative for those to keep away from.
    pub preferred_pods: Vec<(i64, PodTerm)>,
    /// How evenly pods like this one are to be distributed.
    pub spread: Vec<SpreadRule>,
}

/// A port of the node that a container takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Address of the node; `0.0.0.0` means all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

/// A topology spread constraint.
#[derive(Debug, Clone, PartialEq)]
pub struct SpreadRule {
    /// Node label whose equal values make nodes one domain.
    pub topology_key: String,
    /// Greatest allowed difference between the fullest and the emptiest domain.
    pub max_skew: i64,
    /// With fewer domains than this the emptiest counts as empty.
    pub min_domains: Option<i64>,
    /// Whether the rule must be kept, not only aimed at.
    pub required: bool,
    /// Which pods are counted.
    pub selector: Selector,
    /// Whether nodes that the pod's node affinity excludes are left out of the count.
    pub honor_node_affinity: bool,
    /// Whether nodes with taints that the pod does not bear are left out of the count.
    pub honor_taints: bool,
}

/// Why a pod's wishes cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {field}")]
pub struct InvalidPod {
    /// Path of the field at fault.
    pub field: &'static str,
    /// What is wrong with it.
    #[source]
    pub source: ParseExpressionError,
}

// === impl PodKey ===

impl PodKey {
    /// The key of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl PodInfo ===

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: &Pod) -> Result<Self, InvalidPod> {
        let default_spec = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&default_spec);
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let affinity = spec.affinity.as_ref();
        let node_affinity = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let pod_term = |term: &_, field| {
            PodTerm::new(term, namespace, &labels).map_err(|source| InvalidPod { field, source })
        };

        let mut preferred_pods = Vec::new();
        let wishes = near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref());
        for wish in wishes.into_iter().flatten() {
            let term = pod_term(&wish.pod_affinity_term, "spec.affinity.podAffinity")?;
            preferred_pods.push((i64::from(wish.weight), term));
        }
        let wishes =
            apart.and_then(|apart| apart.preferred_during_scheduling_ignored_during_execution.as_ref());
        for wish in wishes.into_iter().flatten() {
            let term = pod_term(&wish.pod_affinity_term, "spec.affinity.podAntiAffinity")?;
            preferred_pods.push((-i64::from(wish.weight), term));
        }

        Ok(Self {
            key: PodKey::of(pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            controller: controller_uid(pod),
            node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
            requests: resources::requests(spec),
            assumed_use: resources::assumed_use(spec),
            host_ports: host_ports(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_terms: node_affinity
                .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
                .map(|required| required.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred_nodes: node_affinity
                .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|wish| (i64::from(wish.weight), NodeTerm::new(&wish.preference)))
                .collect(),
            near: near
                .and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|term| pod_term(term, "spec.affinity.podAffinity"))
                .collect::<Result<_, _>>()?,
            apart: apart
                .and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref())
                .into_iter()
                .flatten()
                .map(|term| pod_term(term, "spec.affinity.podAntiAffinity"))
                .collect::<Result<_, _>>()?,
            preferred_pods,
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|constraint| SpreadRule::new(constraint, &labels))
                .collect::<Result<_, _>>()?,
            labels,
        })
    }

    /// Whether the node of this name and these labels meets the pod's node selector and required node affinity.
    pub fn accepts_node(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self
                .node_terms
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

impl SpreadRule {
    fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Result<Self, InvalidPod> {
        let mut selector = match &constraint.label_selector {
            Some(selector) => terms::compile(selector)
                .map_err(|source| InvalidPod { field: "spec.topologySpreadConstraints", source })?,
            // No selector selects no pod: a set with no members says that without another type.
            None => Expression::In(String::new(), [].into()).into(),
        };
        selector.extend(terms::same_values(constraint.match_label_keys.as_deref(), labels, Expression::In));
        Ok(Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.map(i64::from),
            required: constraint.when_unsatisfiable == "DoNotSchedule",
            selector,
            honor_node_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        })
    }
}

fn controller_uid(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}
