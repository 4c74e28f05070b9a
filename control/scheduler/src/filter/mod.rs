//! What a node must be for a pod to run there at all: one filter per file.
//!
//! A filter is a function that looks at pod and cluster once and returns the check to make on every node, or `None` when
//! the pod does not care. Reasons are kube-scheduler's, word for word: people search for them.

use std::borrow::Cow;

use crate::{
    pod::PodInfo,
    queue::Change,
    snapshot::{NodeInfo, Snapshot},
};

mod affinity;
mod fit;
mod host_ports;
mod node_affinity;
mod node_name;
pub(crate) mod spread;
mod taints;
mod unschedulable;

/// Says why a node will not do; several reasons when several resources are short.
pub(crate) type Check<'a> = Box<dyn Fn(&NodeInfo) -> Result<(), Vec<Cow<'static, str>>> + 'a>;

/// One filter.
pub(crate) struct Filter {
    /// Name of kube-scheduler's plugin that does the same.
    pub(crate) name: &'static str,
    /// Looks at pod and cluster once.
    pub(crate) prepare: for<'a> fn(&'a Snapshot, &'a PodInfo) -> Option<Check<'a>>,
    /// What must change in the cluster for a rejected pod to have another chance.
    pub(crate) cured_by: &'static [Change],
}

/// All filters, cheap ones first; a node is rejected by the first that objects.
pub(crate) const FILTERS: &[Filter] = &[
    Filter { name: "NodeUnschedulable", prepare: unschedulable::prepare, cured_by: &[Change::Node] },
    Filter { name: "NodeName", prepare: node_name::prepare, cured_by: &[Change::Node] },
    Filter { name: "TaintToleration", prepare: taints::prepare, cured_by: &[Change::Node] },
    Filter { name: "NodeAffinity", prepare: node_affinity::prepare, cured_by: &[Change::Node] },
    Filter { name: "NodePorts", prepare: host_ports::prepare, cured_by: &[Change::Node, Change::PodGone] },
    Filter { name: "NodeResourcesFit", prepare: fit::prepare, cured_by: &[Change::Node, Change::PodGone] },
    Filter {
        name: "PodTopologySpread",
        prepare: spread::prepare,
        cured_by: &[Change::Node, Change::PodGone, Change::PodPlaced],
    },
    Filter {
        name: "InterPodAffinity",
        prepare: affinity::prepare,
        cured_by: &[Change::Node, Change::PodGone, Change::PodPlaced, Change::Namespace],
    },
];

/// Whether a change in the cluster may help a pod that the filter of this name rejected.
pub(crate) fn may_cure(filter: &str, change: Change) -> bool {
    FILTERS.iter().any(|known| known.name == filter && known.cured_by.contains(&change))
}

/// Rejects with one reason that is the same for every node.
fn because(reason: &'static str) -> Result<(), Vec<Cow<'static, str>>> {
    Err(vec![Cow::Borrowed(reason)])
}
