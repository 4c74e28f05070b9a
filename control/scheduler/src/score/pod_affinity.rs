//! Prefers nodes near the pods that the pod wishes for, and away from those that it wishes to avoid.
//!
//! Wishes of the pods that run already count as well: they do not want to lose the distance that they got.

use std::collections::HashMap;

use super::stretch;
use crate::{
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
    terms::PodTerm,
};

/// What a required affinity of a running pod weighs; it was met when that pod was placed and is worth keeping so.
const REQUIRED_WEIGHT: i64 = 1;

pub(super) fn points(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
    let mut places: HashMap<(&str, &str), i64> = HashMap::new();
    let speaks_of = |term: &PodTerm, other: &PodInfo| {
        let namespace = &*other.key.namespace;
        term.matches(namespace, snapshot.namespaces.get(namespace), &other.labels)
    };
    for node in snapshot.nodes.iter() {
        let mut credit = |term: &PodTerm, weight: i64| {
            if let Some((key, value)) = node.labels.get_key_value(&term.topology_key) {
                *places.entry((key, value)).or_default() += weight;
            }
        };
        for other in &node.pods {
            for (weight, term) in &pod.preferred_pods {
                if speaks_of(term, other) {
                    credit(term, *weight);
                }
            }
            for (weight, term) in &other.preferred_pods {
                if speaks_of(term, pod) {
                    credit(term, *weight);
                }
            }
            for term in other.near.iter().filter(|term| speaks_of(term, pod)) {
                credit(term, REQUIRED_WEIGHT);
            }
        }
    }
    let sum = |node: &&NodeInfo| {
        let own = node.labels.iter().filter_map(|(key, value)| places.get(&(key.as_str(), value.as_str())));
        own.sum()
    };
    stretch(nodes.iter().map(sum).collect())
}
