//! Endpoints and sets of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::outlier::Monitor;
use crate::balance::{Labels, Latency, Reported};

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
    pub(crate) latency: Latency,
    pub(crate) reported: Reported,
    /// Milliseconds of [`process_clock`] at which it came, or last passed its checks again.
    since: AtomicU64,
    gone: AtomicBool,
    failing_checks: AtomicBool,
    /// Checks are on and none has had a result yet.
    awaits_first_check: AtomicBool,
    /// Milliseconds of [`process_clock`]; 0 is "not ejected".
    ejected_until: AtomicU64,
    pub(crate) monitor: Monitor,
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
    /// 0 is asked first.
    pub(crate) priority: u32,
    pub(crate) zone: Arc<Zone>,
    /// Weight of the zone among those of the same priority; 0 is none.
    pub(crate) locality_weight: u32,
    /// What subsets are made by.
    pub(crate) labels: Arc<Labels>,
    /// Discovery names it no more; it stays as long as it passes its checks.
    pub(crate) leaving: bool,
}

/// Where an endpoint is, as load reports name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Zone {
    pub(crate) region: String,
    pub(crate) zone: String,
    pub(crate) sub_zone: String,
}

/// An immutable set of endpoints.
#[derive(Debug, Clone)]
pub(crate) struct EndpointSet {
    /// All of them; canonical.
    pub(crate) hosts: Vec<Host>,
    /// Those of `hosts` that discovery calls healthy: the only ones that are ever picked.
    pub(crate) eligible: Vec<Host>,
    /// Indexes of `hosts` in the order of their addresses.
    by_address: Vec<u32>,
    /// How much more than their part a priority's fit endpoints may be given, in percent (Envoy's default: 140).
    pub(crate) overprovisioning: u32,
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
    pub(crate) priority: u32,
    pub(crate) zone: Arc<Zone>,
    pub(crate) locality_weight: u32,
    pub(crate) labels: Arc<Labels>,
}

/// Envoy's over-provisioning factor, in percent.
pub(crate) const OVERPROVISIONING: u32 = 140;

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
            latency: Latency::default(),
            reported: Reported::default(),
            since: AtomicU64::new(process_clock()),
            gone: AtomicBool::new(false),
            failing_checks: AtomicBool::new(false),
            awaits_first_check: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            monitor: Monitor::default(),
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
        self.awaits_first_check.store(false, Ordering::Relaxed);
        let failed = self.failing_checks.swap(failing, Ordering::Relaxed);
        if failed && !failing {
            self.since.store(process_clock(), Ordering::Relaxed);
        }
    }

    /// Until its first check it is unfit.
    pub(crate) fn await_first_check(&self) {
        self.awaits_first_check.store(true, Ordering::Relaxed);
        self.failing_checks.store(true, Ordering::Relaxed);
    }

    pub(crate) fn awaits_first_check(&self) -> bool {
        self.awaits_first_check.load(Ordering::Relaxed)
    }

    /// For how long it has been there, or passed its checks again.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(process_clock().saturating_sub(self.since.load(Ordering::Relaxed)))
    }

    pub(crate) fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && process_clock() < until
    }

    /// Whether our own observation, in contrast to the configuration, says that it can serve.
    pub(crate) fn is_fit(&self) -> bool {
        !self.is_failing_checks() && !self.is_ejected()
    }

    /// When the current ejection ends, if there is one.
    pub(crate) fn ejected_until(&self) -> Option<Instant> {
        self.is_ejected()
            .then(|| *CLOCK_ORIGIN + Duration::from_millis(self.ejected_until.load(Ordering::Relaxed)))
    }

    pub(crate) fn eject(&self, duration: Duration) {
        let until = process_clock().saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        self.ejected_until.store(until, Ordering::Relaxed);
    }
}

// === impl Host ===

impl Host {
    /// Whether only its passing of checks kept it, and it does no more.
    pub(crate) fn is_left_over(&self) -> bool {
        self.leaving && self.endpoint.is_failing_checks()
    }

    /// Whether it takes traffic: neither discovery nor our own observation says otherwise.
    pub(crate) fn is_fit(&self) -> bool {
        self.status == Status::Healthy && self.endpoint.is_fit()
    }
}

// === impl HostConfig ===

impl HostConfig {
    /// A healthy endpoint with nothing special.
    #[cfg(test)]
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            hostname: String::new(),
            weight: 1,
            status: Status::Healthy,
            priority: 0,
            zone: Arc::default(),
            locality_weight: 0,
            labels: Arc::default(),
        }
    }
}

// === impl EndpointSet ===

impl Default for EndpointSet {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            eligible: Vec::new(),
            by_address: Vec::new(),
            overprovisioning: OVERPROVISIONING,
            known: false,
        }
    }
}

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
                priority: config.priority,
                zone: Arc::clone(&config.zone),
                locality_weight: config.locality_weight,
                labels: Arc::clone(&config.labels),
                leaving: false,
            });
        }
        Self::of(hosts)
    }

    fn of(hosts: Vec<Host>) -> Self {
        let eligible: Vec<Host> =
            hosts.iter().filter(|host| host.status == Status::Healthy).cloned().collect();
        let mut by_address: Vec<u32> = (0..hosts.len() as u32).collect();
        by_address.sort_by_key(|index| hosts[*index as usize].endpoint.address);
        Self { hosts, eligible, by_address, overprovisioning: OVERPROVISIONING, known: true }
    }

    pub(crate) fn with_overprovisioning(self, percent: u32) -> Self {
        Self { overprovisioning: percent, ..self }
    }

    /// This, and those of `before` that are not in it and pass their checks.
    pub(super) fn keeping_healthy(&self, before: &Self) -> Self {
        let stays = |host: &&Host| {
            self.find(host.endpoint.address).is_none()
                && host.status == Status::Healthy
                && !host.endpoint.is_failing_checks()
        };
        let left = before.hosts.iter().filter(stays).map(|host| Host { leaving: true, ..host.clone() });
        let hosts = self.hosts.iter().cloned().chain(left).collect();
        Self { overprovisioning: self.overprovisioning, ..Self::of(hosts) }
    }

    /// This without those that only their passing of checks kept, and that do no more.
    pub(super) fn without_left_overs(&self) -> Self {
        let hosts = self.hosts.iter().filter(|host| !host.is_left_over()).cloned().collect();
        Self { overprovisioning: self.overprovisioning, ..Self::of(hosts) }
    }

    pub(crate) fn find(&self, address: SocketAddr) -> Option<&Host> {
        let address_of = |index: &u32| self.hosts[*index as usize].endpoint.address;
        let at = self.by_address.binary_search_by_key(&address, address_of).ok()?;
        self.hosts.get(self.by_address[at] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(port: u16, status: Status) -> HostConfig {
        HostConfig { status, ..HostConfig::plain(([127, 0, 0, 1], port).into()) }
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
