//! `LEAST_REQUEST`: of some at random, the one with the fewest requests in flight.
//!
//! Two choices already bring the longest queue from `log n / log log n` down to `log log n` (Mitzenmacher, "The Power of
//! Two Choices in Randomized Load Balancing"), without everybody running to the one that looks best.

use std::sync::atomic::Ordering;

use super::{Random, random};
use crate::cluster::endpoint::Host;

/// The settings; Envoy's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LeastRequest {
    /// How many are looked at; at least 2. All of them when it is [`Self::ALL`].
    pub(crate) choices: usize,
    /// What requests in flight count where weights differ: 0 is not at all, 1 is in proportion.
    pub(crate) active_bias: f64,
}

/// Who is drawn to be looked at.
///
/// Where weights differ they are drawn by weight, and compared by what they carry for it. So idle endpoints share in
/// proportion to their weights, as in Envoy's order by deadlines of `weight / (active + 1)^bias`, which a change of 10,000
/// endpoints would make every data thread build anew.
#[derive(Debug)]
pub(super) struct Table {
    settings: LeastRequest,
    drawn: random::Table,
    /// By index; empty when all are equal.
    weights: Vec<f64>,
}

// === impl LeastRequest ===

impl LeastRequest {
    /// For [`Self::choices`]: look at all (Envoy's `FULL_SCAN`).
    pub(crate) const ALL: usize = usize::MAX;
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choices: 2, active_bias: 1.0 }
    }
}

// === impl Table ===

impl Table {
    pub(super) fn new(settings: LeastRequest, weights: &[f64]) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let weights_of = if equal { Vec::new() } else { weights.to_vec() };
        Self { settings, drawn: random::Table::new(weights), weights: weights_of }
    }

    pub(super) fn choose(&self, hosts: &[Host], random: &Random) -> usize {
        let first = self.drawn.choose(random);
        if self.settings.choices == LeastRequest::ALL {
            // From a random one on, so that equals share.
            let others = (1..hosts.len()).map(|offset| (first + offset) % hosts.len());
            return self.best(hosts, first, others);
        }
        let others = (1..self.settings.choices).map(|_| self.drawn.choose(random));
        self.best(hosts, first, others)
    }

    /// The first of those that carry least.
    fn best(&self, hosts: &[Host], first: usize, others: impl Iterator<Item = usize>) -> usize {
        let mut best = (first, self.carried(hosts, first));
        for index in others {
            let carried = self.carried(hosts, index);
            if carried < best.1 {
                best = (index, carried);
            }
        }
        best.0
    }

    fn carried(&self, hosts: &[Host], index: usize) -> f64 {
        let active = hosts[index].endpoint.stats.rq_active.load(Ordering::Relaxed) as f64;
        match self.weights.get(index) {
            None => active,
            Some(_) if self.settings.active_bias == 0.0 => 0.0,
            Some(weight) => active.powf(self.settings.active_bias) / weight,
        }
    }
}
