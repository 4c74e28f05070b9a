//! Peak EWMA: of two at random, the one whose answer should come sooner.
//!
//! After Finagle's `p2cPeakEwma`. What an endpoint costs is its latency, as [`super::Latency`] remembers it, times the
//! requests that it has in flight.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{Random, random};
use crate::cluster::endpoint::Host;

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PeakEwma {
    /// How long a slow answer is remembered: after this time its weight is 1/e.
    pub(crate) decay: Duration,
    /// What is expected of an endpoint that has not answered yet.
    pub(crate) unknown: Duration,
}

/// Who is drawn to be compared.
#[derive(Debug)]
pub(super) struct Table {
    settings: PeakEwma,
    drawn: random::Table,
    count: usize,
    /// By index, the mean being 1; empty when all are equal.
    weights: Vec<f64>,
}

// === impl PeakEwma ===

impl Default for PeakEwma {
    fn default() -> Self {
        Self { decay: Duration::from_secs(10), unknown: Duration::from_millis(1) }
    }
}

// === impl Table ===

impl Table {
    pub(super) fn new(settings: PeakEwma, weights: &[f64]) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        let normal = if equal { Vec::new() } else { weights.iter().map(|weight| weight / mean).collect() };
        Self { settings, drawn: random::Table::new(weights), count: weights.len(), weights: normal }
    }

    pub(super) fn choose(&self, hosts: &[Host], random: &Random) -> usize {
        let first = self.drawn.choose(random);
        if self.count == 1 {
            return first;
        }
        let second = match self.drawn.choose(random) {
            // Two of the same would be no choice; the next one is as random as the first.
            second if second == first => (first + 1 + random.below(self.count - 1)) % self.count,
            second => second,
        };
        let now = Instant::now();
        if self.cost(hosts, second, now) < self.cost(hosts, first, now) { second } else { first }
    }

    fn cost(&self, hosts: &[Host], index: usize, now: Instant) -> f64 {
        let endpoint = &hosts[index].endpoint;
        let active = endpoint.stats.rq_active.load(Ordering::Relaxed) as f64;
        let share = self.weights.get(index).map_or(active, |weight| active / weight);
        endpoint.latency.expected(&self.settings, now) * (share + 1.0)
    }
}
