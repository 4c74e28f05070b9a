//! The decision: which node a pod goes to, or why none will do.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    fmt,
    hash::{Hash as _, Hasher as _},
};

use crate::{
    filter,
    pod::PodInfo,
    score,
    snapshot::{NodeInfo, Snapshot},
};

/// Why no node takes a pod. Displays as kube-scheduler's sentence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unschedulable {
    /// How many nodes there are.
    pub nodes: usize,
    /// Reasons, each with the number of nodes that gave it.
    pub reasons: BTreeMap<Cow<'static, str>, usize>,
    /// Names of the filters that gave the reasons.
    pub filters: BTreeSet<&'static str>,
}

/// Picks the node for `pod`: of those that every filter lets through, the one with the highest score.
///
/// Nodes with equal scores are told apart by a hash of pod and node, so that equal pods do not all go to the first
/// node, and the decision still depends on nothing but the arguments.
pub fn schedule(snapshot: &Snapshot, pod: &PodInfo) -> Result<String, Unschedulable> {
    let checks: Vec<_> = filter::FILTERS
        .iter()
        .filter_map(|filter| (filter.prepare)(snapshot, pod).map(|check| (filter.name, check)))
        .collect();
    let mut verdict = Unschedulable { nodes: snapshot.nodes.len(), ..Default::default() };
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    'nodes: for node in snapshot.nodes.iter() {
        for (name, check) in &checks {
            if let Err(reasons) = check(node) {
                verdict.filters.insert(name);
                for reason in reasons {
                    *verdict.reasons.entry(reason).or_default() += 1;
                }
                continue 'nodes;
            }
        }
        feasible.push(node);
    }
    let scores = score::totals(snapshot, pod, &feasible);
    let best = feasible.iter().zip(scores).max_by_key(|(node, score)| (*score, lot(pod, node)));
    best.map(|(node, _)| node.name.clone()).ok_or(verdict)
}

/// The lot that decides between equals.
fn lot(pod: &PodInfo, node: &NodeInfo) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.uid, &node.name).hash(&mut hasher);
    hasher.finish()
}

// === impl Unschedulable ===

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available", self.nodes)?;
        let mut reasons: Vec<_> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        if !reasons.is_empty() {
            write!(f, ": {}", reasons.join(", "))?;
        }
        f.write_str(".")
    }
}

#[cfg(test)]
mod tests;
