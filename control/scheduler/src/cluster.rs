//! The scheduler's picture of the cluster: written by one task, read through snapshots.
//!
//! # Guarantees
//! * A pod is counted on a node from the moment it is *assumed* there, before the API server knows, so that the next
//!   pod sees its resources taken; it stops counting when it is forgotten, ends or is deleted.
//! * What a watch says wins over an assumption.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Node;

use crate::{
    pod::{PodInfo, PodKey},
    snapshot::{NodeInfo, Snapshot},
    terms::Labels,
};

/// See the [module](self). `pods` is canonical for which pod is where; the nodes' own lists follow it.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Every node that is known or that a pod names.
    nodes: BTreeMap<String, Entry>,
    /// Every pod that has a node, assumed or confirmed.
    pods: HashMap<PodKey, Placed>,
    namespaces: Arc<BTreeMap<String, Labels>>,
    /// Taken since the last change, if any.
    snapshot: Option<Snapshot>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Pods can be heard of before their node, and outlive it; only a known node is offered to new pods.
    known: bool,
    info: Arc<NodeInfo>,
}

#[derive(Debug)]
struct Placed {
    pod: Arc<PodInfo>,
    node: String,
    assumed: bool,
}

// === impl Cluster ===

impl Cluster {
    /// The cluster as it is now.
    pub(crate) fn snapshot(&mut self) -> Snapshot {
        let taken = self.snapshot.get_or_insert_with(|| Snapshot {
            nodes: self.nodes.values().filter(|entry| entry.known).map(|entry| entry.info.clone()).collect(),
            namespaces: self.namespaces.clone(),
        });
        taken.clone()
    }

    /// Takes over a node; says whether something changed that decides over pods.
    pub(crate) fn set_node(&mut self, node: &Node) -> bool {
        let Some(name) = &node.metadata.name else { return false };
        let entry = self.nodes.entry(name.clone()).or_default();
        let mut info = NodeInfo::clone(&entry.info);
        info.update(node);
        let changed = !entry.known || !info.offers_same(&entry.info);
        entry.known = true;
        if changed {
            entry.info = Arc::new(info);
            self.snapshot = None;
        }
        changed
    }

    /// Forgets a node; its pods stay until they are deleted themselves.
    pub(crate) fn remove_node(&mut self, name: &str) {
        self.snapshot = None;
        if let Some(entry) = self.nodes.get_mut(name) {
            entry.known = false;
            if entry.info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }

    /// Names of the known nodes.
    pub(crate) fn node_names(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, entry)| entry.known).map(|(name, _)| name.clone()).collect()
    }

    /// Keys of the pods that the API server says are on a node.
    pub(crate) fn confirmed_pods(&self) -> Vec<PodKey> {
        self.pods.iter().filter(|(_, placed)| !placed.assumed).map(|(key, _)| key.clone()).collect()
    }

    /// Counts a pod on a node although the API server does not know of it yet.
    pub(crate) fn assume(&mut self, pod: Arc<PodInfo>, node: String) {
        self.put(Placed { pod, node, assumed: true });
    }

    /// Takes back an assumption, unless a watch has confirmed it since.
    pub(crate) fn forget(&mut self, key: &PodKey) {
        if self.is_assumed(key) {
            self.remove_pod(key);
        }
    }

    /// Whether the pod is being bound.
    pub(crate) fn is_assumed(&self, key: &PodKey) -> bool {
        self.pods.get(key).is_some_and(|placed| placed.assumed)
    }

    /// The pod that is counted under this key.
    pub(crate) fn pod(&self, key: &PodKey) -> Option<&Arc<PodInfo>> {
        self.pods.get(key).map(|placed| &placed.pod)
    }

    /// Takes over a pod that the API server says is on a node; says whether anything changed for others.
    pub(crate) fn confirm(&mut self, pod: Arc<PodInfo>, node: &str) -> bool {
        if let Some(placed) = self.pods.get_mut(&pod.key)
            && placed.node == node
            && placed.pod.labels == pod.labels
            && placed.pod.requests == pod.requests
            && placed.pod.terminating == pod.terminating
            && placed.pod.uid == pod.uid
        {
            placed.assumed = false;
            return false;
        }
        self.put(Placed { pod, node: node.to_owned(), assumed: false });
        true
    }

    /// Stops counting a pod; says whether it was counted.
    pub(crate) fn remove_pod(&mut self, key: &PodKey) -> bool {
        let Some(placed) = self.pods.remove(key) else { return false };
        self.snapshot = None;
        if let Some(entry) = self.nodes.get_mut(&placed.node) {
            Arc::make_mut(&mut entry.info).remove(&placed.pod);
            if !entry.known && entry.info.pods.is_empty() {
                self.nodes.remove(&placed.node);
            }
        }
        true
    }

    /// Takes over the labels of a namespace; says whether they changed.
    pub(crate) fn set_namespace(&mut self, name: String, labels: Labels) -> bool {
        if self.namespaces.get(&name) == Some(&labels) {
            return false;
        }
        Arc::make_mut(&mut self.namespaces).insert(name, labels);
        self.snapshot = None;
        true
    }

    /// Forgets a namespace.
    pub(crate) fn remove_namespace(&mut self, name: &str) {
        if Arc::make_mut(&mut self.namespaces).remove(name).is_some() {
            self.snapshot = None;
        }
    }

    /// Names of all namespaces.
    pub(crate) fn namespace_names(&self) -> Vec<String> {
        self.namespaces.keys().cloned().collect()
    }

    fn put(&mut self, placed: Placed) {
        self.remove_pod(&placed.pod.key);
        self.snapshot = None;
        let entry = self.nodes.entry(placed.node.clone()).or_default();
        Arc::make_mut(&mut entry.info).add(placed.pod.clone());
        self.pods.insert(placed.pod.key.clone(), placed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn an_assumed_pod_takes_resources_until_it_is_forgotten() {
        let mut cluster = Cluster::default();
        cluster.set_node(&testing::node("a").build());
        let pod = Arc::new(testing::pod("p").cpu("500m").info());
        cluster.assume(pod.clone(), "a".to_owned());
        assert_eq!(cluster.snapshot().nodes[0].requested.get("cpu"), 500);
        cluster.forget(&pod.key);
        assert_eq!(cluster.snapshot().nodes[0].requested.get("cpu"), 0);
    }

    #[test]
    fn a_confirmed_pod_is_not_forgotten() {
        let mut cluster = Cluster::default();
        cluster.set_node(&testing::node("a").build());
        let pod = Arc::new(testing::pod("p").cpu("500m").info());
        cluster.assume(pod.clone(), "a".to_owned());
        assert!(!cluster.confirm(pod.clone(), "a"), "nothing new for other pods");
        cluster.forget(&pod.key);
        assert_eq!(cluster.snapshot().nodes[0].pods.len(), 1);
    }

    #[test]
    fn a_watch_wins_over_an_assumption() {
        let mut cluster = Cluster::default();
        cluster.set_node(&testing::node("a").build());
        cluster.set_node(&testing::node("b").build());
        let pod = Arc::new(testing::pod("p").info());
        cluster.assume(pod.clone(), "a".to_owned());
        assert!(cluster.confirm(pod, "b"));
        let nodes = cluster.snapshot().nodes;
        assert_eq!([nodes[0].pods.len(), nodes[1].pods.len()], [0, 1]);
    }

    #[test]
    fn pods_that_arrive_before_their_node_are_counted_once_it_comes() {
        let mut cluster = Cluster::default();
        cluster.confirm(Arc::new(testing::pod("p").cpu("1").info()), "a");
        assert!(cluster.snapshot().nodes.is_empty());
        assert!(cluster.set_node(&testing::node("a").build()));
        assert_eq!(cluster.snapshot().nodes[0].requested.get("cpu"), 1000);
    }

    #[test]
    fn a_heartbeat_changes_nothing() {
        let mut cluster = Cluster::default();
        assert!(cluster.set_node(&testing::node("a").build()));
        assert!(!cluster.set_node(&testing::node("a").build()));
    }
}
