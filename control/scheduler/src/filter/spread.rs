//! Keeps required topology spread constraints: the pod's domain may not get too far ahead of the emptiest.

use std::{borrow::Cow, collections::HashMap};

use kube::core::SelectorExt as _;

use super::Check;
use crate::{
    pod::{PodInfo, SpreadRule},
    snapshot::{NodeInfo, Snapshot},
    terms,
};

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

pub(super) fn prepare<'a>(snapshot: &'a Snapshot, pod: &'a PodInfo) -> Option<Check<'a>> {
    let rules: Vec<_> = pod.spread.iter().filter(|rule| rule.required).collect();
    if rules.is_empty() {
        return None;
    }
    let counted: Vec<_> = rules.iter().map(|rule| (*rule, count(snapshot, pod, rule, &rules))).collect();
    Some(Box::new(move |node| {
        for (rule, counts) in &counted {
            let Some(value) = node.labels.get(&rule.topology_key) else {
                return Err(vec![Cow::Borrowed(REASON_NO_LABEL)]);
            };
            let few_domains = rule.min_domains.is_some_and(|min| (counts.len() as i64) < min);
            let emptiest = if few_domains { 0 } else { counts.values().min().copied().unwrap_or(0) };
            let itself = i64::from(rule.selector.matches(&pod.labels));
            let here = counts.get(value.as_str()).copied().unwrap_or(0);
            if here + itself - emptiest > rule.max_skew {
                return Err(vec![Cow::Borrowed(REASON)]);
            }
        }
        Ok(())
    }))
}

/// How many matching pods each domain has, over the nodes that count for the rule.
fn count<'a>(
    snapshot: &'a Snapshot,
    pod: &PodInfo,
    rule: &SpreadRule,
    rules: &[&SpreadRule],
) -> HashMap<&'a str, i64> {
    let mut counts = HashMap::new();
    for node in snapshot.nodes.iter() {
        let labelled = rules.iter().all(|rule| node.labels.contains_key(&rule.topology_key));
        if let Some(value) =
            node.labels.get(&rule.topology_key).filter(|_| labelled && counts_for(pod, rule, node))
        {
            *counts.entry(value.as_str()).or_default() += matching(pod, rule, node);
        }
    }
    counts
}

/// Whether a node is one of those over which the rule spreads.
pub(crate) fn counts_for(pod: &PodInfo, rule: &SpreadRule, node: &NodeInfo) -> bool {
    let repels = |node: &NodeInfo| {
        let mut repelling = node.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
        repelling.any(|taint| !terms::tolerated(taint, &pod.tolerations))
    };
    (!rule.honor_node_affinity || pod.accepts_node(&node.name, &node.labels))
        && !(rule.honor_taints && repels(node))
}

/// How many pods on the node the rule counts.
pub(crate) fn matching(pod: &PodInfo, rule: &SpreadRule, node: &NodeInfo) -> i64 {
    let alike = node.pods.iter().filter(|other| {
        !other.terminating && other.key.namespace == pod.key.namespace && rule.selector.matches(&other.labels)
    });
    alike.count() as i64
}
