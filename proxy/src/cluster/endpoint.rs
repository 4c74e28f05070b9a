//! Endpoints and sets of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::balance::{PeakEwma, schedule};

/// One address that serves a cluster, with everything that is known about it. Its state outlives set updates.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Unique in the process; pools are keyed by it.
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    /// The address as text, for logs.
    pub(crate) address_text: Box<str>,
    pub(crate) hostname: String,
    pub(crate) stats: EndpointStats,
    pub(crate) ewma: PeakEwma,
    gone: AtomicBool,
    failing_checks: AtomicBool,
    /// Milliseconds of [`process_clock`]; 0 is "not ejected".
    ejected_until: AtomicU64,
    pub(crate) ejections: AtomicU32,
    pub(crate) consecutive_5xx: AtomicU32,
}

/// Numbers that `/clusters` and load reports show.
#[derive(Debug, Default)]
pub(crate) struct EndpointStats {
    pub(crate) rq_total: AtomicU64,
    pub(crate) rq_success: AtomicU64,
    pub(crate) rq_error: AtomicU64,
    pub(crate) rq_timeout: AtomicU64,
    pub(crate) rq_active: AtomicU64,
    /// Sum over completed requests.
    pub(crate) rq_micros: AtomicU64,
    pub(crate) cx_total: AtomicU64,
    pub(crate) cx_active: AtomicU64,
    pub(crate) cx_connect_fail: AtomicU64,
}

/// What discovery says about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Takes traffic.
    Healthy,
    /// Keeps what it has and gets nothing new.
    Draining,
    /// Gets nothing.
    Unhealthy,
}

/// An endpoint as part of a set.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: u32,
    pub(crate) status: Status,
    pub(crate) zone: Arc<Zone>,
}

/// Where an endpoint is, as load reports name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Zone {
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) sub_zone: String,
}

/// An immutable set of endpoints.
#[derive(Debug, Default)]
pub(crate) struct EndpointSet {
    /// All of them; canonical.
    pub(crate) hosts: Vec<Host>,
    /// Those of `hosts` that discovery calls healthy: the only ones that are ever picked.
    pub(crate) eligible: Vec<Host>,
    /// Indexes into `eligible` in the order of a weighted round robin; empty when all weights are equal.
    pub(crate) schedule: Vec<u32>,
    /// Whether discovery has spoken; before, the cluster is warming.
    pub(crate) known: bool,
}

/// What is needed to make a [`Host`].
#[derive(Debug, Clone)]
pub(crate) struct HostConfig {
    pub(crate) address: SocketAddr,
    pub(crate) hostname: String,
    pub(crate) weight: u32,
    pub(crate) status: Status,
    pub(crate) zone: Arc<Zone>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static CLOCK_ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since some moment in this process; never 0.
pub(crate) fn process_clock() -> u64 {
    1 + u64::try_from(CLOCK_ORIGIN.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
}

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, hostname: String) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address,
            address_text: address.to_string().into(),
            hostname,
            stats: EndpointStats::default(),
            ewma: PeakEwma::default(),
            gone: AtomicBool::new(false),
            failing_checks: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            consecutive_5xx: AtomicU32::new(0),
        }
    }

    /// Whether the endpoint left its cluster: its idle connections are closed.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mark_present(&self) {
        self.gone.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_failing_checks(&self) -> bool {
        self.failing_checks.load(Ordering::Relaxed)
    }

    pub(crate) fn set_failing_checks(&self, failing: bool) {
        self.failing_checks.store(failing, Ordering::Relaxed);
    }

    pub(crate) fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && process_clock() < until
    }

    pub(crate) fn eject(&self, duration: Duration) {
        let until = process_clock().saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        self.ejected_until.store(until, Ordering::Relaxed);
    }
}

// === impl EndpointSet ===

impl EndpointSet {
    /// A set of these, with the endpoints of `before` where the address is the same.
    pub(crate) fn new(configs: &[HostConfig], before: &EndpointSet) -> Self {
        let mut hosts: Vec<Host> = Vec::with_capacity(configs.len());
        let known: std::collections::HashMap<SocketAddr, &Arc<Endpoint>> =
            before.hosts.iter().map(|host| (host.endpoint.address, &host.endpoint)).collect();
        let mut seen = std::collections::HashSet::with_capacity(configs.len());
        for config in configs {
            // The same address twice would be picked twice as often by accident.
            if !seen.insert(config.address) {
                continue;
            }
            let endpoint = known
                .get(&config.address)
                .map(|endpoint| Arc::clone(endpoint))
                .unwrap_or_else(|| Arc::new(Endpoint::new(config.address, config.hostname.clone())));
            hosts.push(Host {
                endpoint,
                weight: config.weight.max(1),
                status: config.status,
                zone: Arc::clone(&config.zone),
            });
        }
        let eligible: Vec<Host> =
            hosts.iter().filter(|host| host.status == Status::Healthy).cloned().collect();
        let weights: Vec<u32> = eligible.iter().map(|host| host.weight).collect();
        Self { hosts, eligible, schedule: schedule(&weights), known: true }
    }

    pub(crate) fn find(&self, address: SocketAddr) -> Option<&Host> {
        self.hosts.iter().find(|host| host.endpoint.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(port: u16, status: Status) -> HostConfig {
        HostConfig {
            address: ([127, 0, 0, 1], port).into(),
            hostname: String::new(),
            weight: 1,
            status,
            zone: Arc::default(),
        }
    }

    #[test]
    fn an_endpoint_that_stays_keeps_its_state_and_only_healthy_ones_are_eligible() {
        let first = EndpointSet::new(
            &[config(1, Status::Healthy), config(2, Status::Healthy)],
            &EndpointSet::default(),
        );
        let second = EndpointSet::new(
            &[config(2, Status::Healthy), config(3, Status::Draining), config(4, Status::Unhealthy)],
            &first,
        );
        assert_eq!(second.hosts[0].endpoint.id, first.hosts[1].endpoint.id);
        assert_eq!(second.eligible.len(), 1);
    }

    #[test]
    fn an_address_counts_once() {
        let set = EndpointSet::new(
            &[config(1, Status::Healthy), config(1, Status::Healthy)],
            &EndpointSet::default(),
        );
        assert_eq!(set.hosts.len(), 1);
    }
}
