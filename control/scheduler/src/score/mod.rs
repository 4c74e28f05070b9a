//! Which of the possible nodes is best for a pod: one aspect per file.
//!
//! Each aspect gives every node 0 to 100 points, or `None` when it does not distinguish between them; the sum of points
//! times weights decides. Weights are kube-scheduler's.

use crate::{
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

mod balanced;
mod least_allocated;
mod node_affinity;
mod pod_affinity;
mod replicas;
mod spread;
mod taints;

/// Most points that an aspect gives.
const MAX: i64 = 100;

type Aspect = fn(&Snapshot, &PodInfo, &[&NodeInfo]) -> Option<Vec<i64>>;

const ASPECTS: &[(i64, Aspect)] = &[
    (1, least_allocated::points),
    (1, balanced::points),
    (2, node_affinity::points),
    (2, pod_affinity::points),
    (2, spread::points),
    (2, replicas::points),
    (3, taints::points),
];

/// The total for each of the nodes.
pub(crate) fn totals(snapshot: &Snapshot, pod: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let mut totals = vec![0; nodes.len()];
    // With one candidate there is nothing to compare.
    if nodes.len() < 2 {
        return totals;
    }
    for (weight, aspect) in ASPECTS {
        for (total, points) in totals.iter_mut().zip(aspect(snapshot, pod, nodes).unwrap_or_default()) {
            *total += weight * points;
        }
    }
    totals
}

/// Stretches values to 0..=100, the largest becoming 100; `None` if all are the same.
fn stretch(values: Vec<i64>) -> Option<Vec<i64>> {
    let (min, max) = (values.iter().copied().min()?, values.iter().copied().max()?);
    if min == max {
        return None;
    }
    Some(values.into_iter().map(|value| (value - min) * MAX / (max - min)).collect())
}

/// As [`stretch`], the smallest becoming 100.
fn stretch_reversed(values: Vec<i64>) -> Option<Vec<i64>> {
    stretch(values.into_iter().map(|value| -value).collect())
}
