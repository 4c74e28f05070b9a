//! A bound on what affinity may put on one endpoint.
//!
//! "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup, Zadimoghaddam): nobody carries more than `factor` times the
//! average; what would exceed that goes to the next endpoint in the order that the hash gives.

use std::sync::atomic::Ordering;

use crate::cluster::endpoint::Host;

/// The bound of a group.
#[derive(Debug)]
pub(super) struct Bound {
    /// In percent of the average; at least 100.
    factor: u64,
    /// Each endpoint's part of all weights, by index.
    parts: Vec<f64>,
}

/// How many endpoints are asked for room before the first choice is taken as it is: the more are full, the less is gained.
const MAX_STEPS: usize = 64;

// === impl Bound ===

impl Bound {
    pub(super) fn new(factor: u32, weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        Self { factor: u64::from(factor), parts: weights.iter().map(|weight| weight / total).collect() }
    }

    /// The first of `order` with room for one more, of `active` requests that the cluster carries, this one included.
    pub(super) fn first_with_room(
        &self,
        hosts: &[Host],
        active: u64,
        order: impl Fn(usize) -> usize,
    ) -> usize {
        let total = (active.max(1) * self.factor).div_ceil(100) as f64;
        let has_room = |index: usize| {
            let carried = hosts[index].endpoint.stats.rq_active.load(Ordering::Relaxed);
            carried as f64 + 1.0 <= (total * self.parts[index]).ceil().max(1.0)
        };
        (0..MAX_STEPS.min(4 * hosts.len()))
            .map(&order)
            .find(|index| has_room(*index))
            .unwrap_or_else(|| order(0))
    }
}
