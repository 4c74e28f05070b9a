//! Builders for tests.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, ContainerPort, Node, NodeCondition, NodeSpec, NodeStatus, Pod, PodAffinityTerm,
        PodAntiAffinity, PodSpec, ResourceRequirements, Taint, Toleration, TopologySpreadConstraint,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, OwnerReference},
    },
};

use crate::{
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

/// A pod in the making.
pub(crate) struct PodBuilder(Pod);

/// A node in the making.
pub(crate) struct NodeBuilder(Node);

pub(crate) fn pod(name: &str) -> PodBuilder {
    let mut pod = Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.uid = Some(format!("uid-{name}"));
    pod.spec = Some(PodSpec { containers: vec![Container::default()], ..Default::default() });
    PodBuilder(pod)
}

/// A node that is ready, with 2 processors, 4 GiB and room for 110 pods.
pub(crate) fn node(name: &str) -> NodeBuilder {
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    node.metadata.labels = Some([("kubernetes.io/hostname".to_owned(), name.to_owned())].into());
    node.spec = Some(NodeSpec::default());
    let ready = NodeCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..Default::default() };
    let amounts = [("cpu", "2"), ("memory", "4Gi"), ("pods", "110")];
    let allocatable = amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
    node.status = Some(NodeStatus {
        conditions: Some(vec![ready]),
        allocatable: Some(allocatable.into()),
        ..Default::default()
    });
    NodeBuilder(node)
}

/// A snapshot of nodes with the pods that run there.
pub(crate) fn snapshot(nodes: Vec<(NodeBuilder, Vec<PodBuilder>)>) -> Snapshot {
    let info = |(node, pods): (NodeBuilder, Vec<PodBuilder>)| {
        let mut info = NodeInfo::default();
        info.update(&node.build());
        pods.into_iter().for_each(|pod| info.add(pod.info().into()));
        info.into()
    };
    let namespaces = BTreeMap::from([("default".to_owned(), BTreeMap::new())]);
    Snapshot { nodes: nodes.into_iter().map(info).collect(), namespaces: namespaces.into() }
}

// === impl PodBuilder ===

impl PodBuilder {
    pub(crate) fn info(self) -> PodInfo {
        PodInfo::new(&self.0).expect("test pods are valid")
    }

    pub(crate) fn cpu(self, amount: &str) -> Self {
        self.request("cpu", amount)
    }

    pub(crate) fn request(mut self, name: &str, amount: &str) -> Self {
        let container = &mut self.spec().containers[0];
        let resources = container.resources.get_or_insert_with(ResourceRequirements::default);
        let requests = resources.requests.get_or_insert_default();
        requests.insert(name.to_owned(), Quantity(amount.to_owned()));
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn node_selector(mut self, key: &str, value: &str) -> Self {
        self.spec().node_selector.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn tolerates(mut self, key: &str) -> Self {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            ..Default::default()
        };
        self.spec().tolerations.get_or_insert_default().push(toleration);
        self
    }

    pub(crate) fn host_port(mut self, port: i32) -> Self {
        let port = ContainerPort { host_port: Some(port), container_port: port, ..Default::default() };
        self.spec().containers[0].ports.get_or_insert_default().push(port);
        self
    }

    /// Not on the same host as pods with this label.
    pub(crate) fn apart_from(mut self, key: &str, value: &str) -> Self {
        let term = PodAffinityTerm {
            topology_key: "kubernetes.io/hostname".to_owned(),
            label_selector: Some(selector(key, value)),
            ..Default::default()
        };
        let affinity = self.spec().affinity.get_or_insert_with(Affinity::default);
        let apart = affinity.pod_anti_affinity.get_or_insert_with(PodAntiAffinity::default);
        apart.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term);
        self
    }

    /// On the same host as pods with this label.
    pub(crate) fn near(mut self, key: &str, value: &str) -> Self {
        let term = PodAffinityTerm {
            topology_key: "kubernetes.io/hostname".to_owned(),
            label_selector: Some(selector(key, value)),
            ..Default::default()
        };
        let near = self.spec().affinity.get_or_insert_default().pod_affinity.get_or_insert_default();
        near.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term);
        self
    }

    pub(crate) fn spread(mut self, max_skew: i32, when_unsatisfiable: &str, key: &str, value: &str) -> Self {
        let constraint = TopologySpreadConstraint {
            max_skew,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: when_unsatisfiable.to_owned(),
            label_selector: Some(selector(key, value)),
            ..Default::default()
        };
        self.spec().topology_spread_constraints.get_or_insert_default().push(constraint);
        self
    }

    pub(crate) fn controlled_by(mut self, uid: &str) -> Self {
        let owner = OwnerReference { uid: uid.to_owned(), controller: Some(true), ..Default::default() };
        self.0.metadata.owner_references.get_or_insert_default().push(owner);
        self
    }

    pub(crate) fn spec(&mut self) -> &mut PodSpec {
        self.0.spec.get_or_insert_default()
    }
}

// === impl NodeBuilder ===

impl NodeBuilder {
    pub(crate) fn build(self) -> Node {
        self.0
    }

    pub(crate) fn offers(mut self, name: &str, amount: &str) -> Self {
        let allocatable = self.0.status.get_or_insert_default().allocatable.get_or_insert_default();
        allocatable.insert(name.to_owned(), Quantity(amount.to_owned()));
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn cordoned(mut self) -> Self {
        self.0.spec.get_or_insert_default().unschedulable = Some(true);
        self
    }

    pub(crate) fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        let taint = Taint {
            key: key.to_owned(),
            value: Some(value.to_owned()),
            effect: effect.to_owned(),
            ..Default::default()
        };
        self.0.spec.get_or_insert_default().taints.get_or_insert_default().push(taint);
        self
    }

    pub(crate) fn ready(mut self, status: &str) -> Self {
        let conditions = self.0.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.iter_mut().for_each(|condition| condition.status = status.to_owned());
        self
    }
}

fn selector(key: &str, value: &str) -> LabelSelector {
    LabelSelector { match_labels: Some([(key.to_owned(), value.to_owned())].into()), ..Default::default() }
}
