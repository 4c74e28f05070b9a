//! Picking an endpoint.

mod ewma;

use std::{cell::Cell, sync::Arc};

pub(crate) use ewma::PeakEwma;

use crate::cluster::{
    Cluster,
    endpoint::{Endpoint, EndpointSet, Host},
};

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// The better of two at random, by latency and load (Envoy: `LEAST_REQUEST`).
    PeakEwma,
    /// At random.
    Random,
}

/// A worker's small random numbers: xorshift, since neither secrecy nor perfection is asked for.
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

/// The longest weighted schedule; finer weights are rounded.
const MAX_SCHEDULE: u64 = 1024;

/// Picks an endpoint that is not in `tried`, if there is one, else any.
///
/// `turn` is the worker's round-robin position in this cluster. Endpoints that our own checks or the outlier detection
/// found unfit are passed over, unless so many are that the finding itself is in doubt (Envoy's panic mode).
pub(crate) fn pick(
    cluster: &Cluster,
    set: &EndpointSet,
    turn: &Cell<usize>,
    random: &Random,
    tried: &[u64],
) -> Option<Arc<Endpoint>> {
    let hosts = &set.eligible;
    if hosts.len() <= 1 {
        let only = &hosts.first()?.endpoint;
        let usable = cluster.is_fit(only) || cluster.panic_threshold > 0.0;
        return usable.then(|| Arc::clone(only));
    }
    let usable = |host: &Host| cluster.is_fit(&host.endpoint) && !tried.contains(&host.endpoint.id);
    // The usual case: the first choice is good. Everything below is for bad days.
    let first = choose(cluster.policy, set, turn, random);
    if usable(&hosts[first]) {
        return Some(Arc::clone(&hosts[first].endpoint));
    }
    let fit = hosts.iter().filter(|host| cluster.is_fit(&host.endpoint)).count();
    let panic = (fit as f64) * 100.0 < cluster.panic_threshold * hosts.len() as f64;
    let acceptable = |host: &Host| if panic { !tried.contains(&host.endpoint.id) } else { usable(host) };
    if acceptable(&hosts[first]) {
        return Some(Arc::clone(&hosts[first].endpoint));
    }
    for _ in 0..hosts.len().min(8) {
        let index = choose(cluster.policy, set, turn, random);
        if acceptable(&hosts[index]) {
            return Some(Arc::clone(&hosts[index].endpoint));
        }
    }
    let start = random.below(hosts.len());
    let in_turn = || (0..hosts.len()).map(|offset| &hosts[(start + offset) % hosts.len()]);
    in_turn()
        .find(|host| acceptable(host))
        .or_else(|| in_turn().find(|host| panic || cluster.is_fit(&host.endpoint)))
        .map(|host| Arc::clone(&host.endpoint))
}

/// A smooth weighted order of the indexes of `weights`; empty when all are equal.
pub(crate) fn schedule(weights: &[u32]) -> Vec<u32> {
    if weights.windows(2).all(|pair| pair[0] == pair[1]) {
        return Vec::new();
    }
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    let total: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    // Rounding down only when the exact order would be too long; a weight never vanishes.
    let scale = (total as f64 / MAX_SCHEDULE as f64).max(1.0);
    let weights: Vec<i64> =
        weights.iter().map(|weight| ((f64::from(weight / divisor) / scale) as i64).max(1)).collect();
    let total: i64 = weights.iter().sum();
    let mut current = vec![0i64; weights.len()];
    let mut order = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        let mut best = 0;
        for index in 0..weights.len() {
            current[index] += weights[index];
            if current[index] > current[best] {
                best = index;
            }
        }
        current[best] -= total;
        order.push(best as u32);
    }
    order
}

fn choose(policy: Policy, set: &EndpointSet, turn: &Cell<usize>, random: &Random) -> usize {
    let count = set.eligible.len();
    let weighted = |position: usize| {
        if set.schedule.is_empty() {
            position % count
        } else {
            set.schedule[position % set.schedule.len()] as usize
        }
    };
    match policy {
        Policy::RoundRobin => {
            let position = turn.get();
            turn.set(position.wrapping_add(1));
            weighted(position)
        }
        Policy::Random => weighted(random.below(count.max(set.schedule.len()))),
        Policy::PeakEwma => {
            let first = random.below(count);
            let second = (first + 1 + random.below(count - 1)) % count;
            let cost = |index: usize| {
                let host = &set.eligible[index];
                let active = host.endpoint.stats.rq_active.load(std::sync::atomic::Ordering::Relaxed);
                host.endpoint.ewma.cost(active) / f64::from(host.weight)
            };
            if cost(second) < cost(first) { second } else { first }
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

// === impl Random ===

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform enough in `0..bound`; `bound` is at least 1.
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests;
