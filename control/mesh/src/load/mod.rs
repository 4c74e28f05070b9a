//! What endpoints do, from the load reports of the proxies that call them.
//!
//! Each proxy reports about the endpoints that it calls; an endpoint's load is the sum over its callers. What a sidecar
//! reports about its own workload is left out, or every request would count twice.

mod window;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge, Registry};
use weft_xds::{
    load::{ClusterLoad, LoadSink},
    pb::envoy::config::core::v3::Node,
};

use self::window::Window;
use crate::resources::{INBOUND, PASSTHROUGH};

/// The time over which loads are averaged.
pub const WINDOW: Duration = Duration::from_secs(30);
/// Pairs of caller and endpoint that are kept: 200 proxies that each call 500 endpoints. Further ones are counted only.
const MAX_ENTRIES: usize = 100_000;

/// What an endpoint, or several, did lately.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Requests begun per second.
    pub requests_per_second: f64,
    /// Requests that ended badly per second.
    pub errors_per_second: f64,
    /// Requests that ended per second, well or badly.
    pub ended_per_second: f64,
    /// Requests not yet ended, when last told.
    pub in_flight: u64,
    /// Seconds of request duration that ended per second; see [`mean_latency`](Self::mean_latency).
    latency_per_second: f64,
}

/// The loads of all endpoints; clones share them.
#[derive(Clone)]
pub struct Loads {
    table: Arc<Mutex<LoadTable>>,
    entries: IntGauge,
    dropped: IntCounter,
}

/// Who reported about what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    reporter: Arc<str>,
    cluster: Arc<str>,
    endpoint: SocketAddr,
}

/// Canonical is `entries`: no more than `capacity`, each with a report from within the window.
#[derive(Debug)]
struct LoadTable {
    entries: HashMap<Key, Window>,
    capacity: usize,
    swept: Option<Instant>,
}

// === impl Load ===

impl Load {
    /// The part of requests that ended badly, from 0 to 1.
    pub fn error_rate(&self) -> f64 {
        if self.ended_per_second > 0.0 { self.errors_per_second / self.ended_per_second } else { 0.0 }
    }

    /// How long a request took on average; zero if none ended.
    pub fn mean_latency(&self) -> Duration {
        if self.ended_per_second > 0.0 {
            Duration::try_from_secs_f64(self.latency_per_second / self.ended_per_second).unwrap_or_default()
        } else {
            Duration::ZERO
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests_per_second: self.requests_per_second + other.requests_per_second,
            errors_per_second: self.errors_per_second + other.errors_per_second,
            ended_per_second: self.ended_per_second + other.ended_per_second,
            in_flight: self.in_flight.saturating_add(other.in_flight),
            latency_per_second: self.latency_per_second + other.latency_per_second,
        }
    }
}

// === impl Loads ===

impl Loads {
    /// None yet; its metrics go to `registry`.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let entries =
            IntGauge::new("weft_mesh_load_entries", "Pairs of proxy and endpoint with a load report")?;
        let dropped = IntCounter::new(
            "weft_mesh_load_reports_dropped_total",
            "Endpoints in load reports that were ignored because too many are kept already",
        )?;
        registry.register(Box::new(entries.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        Ok(Self { table: Arc::new(Mutex::new(LoadTable::new(MAX_ENTRIES))), entries, dropped })
    }

    /// The load of each endpoint that was reported on within the window.
    pub fn by_endpoint(&self) -> HashMap<SocketAddr, Load> {
        self.table.lock().by_endpoint(Instant::now())
    }

    /// The load of each cluster that was reported on within the window: the sum over its endpoints.
    pub fn by_cluster(&self) -> HashMap<Arc<str>, Load> {
        self.table.lock().by_cluster(Instant::now())
    }
}

impl LoadSink for Loads {
    fn report(&self, node: &Node, loads: &[ClusterLoad]) {
        let mut table = self.table.lock();
        let dropped = table.report(&node.id, loads, Instant::now());
        self.entries.set(i64::try_from(table.entries.len()).unwrap_or(i64::MAX));
        self.dropped.inc_by(dropped);
    }

    /// Its requests may have ended since, and nobody will tell: they are not in flight any more.
    fn gone(&self, node: &Node) {
        self.table.lock().gone(&node.id);
    }
}

// === impl LoadTable ===

impl LoadTable {
    fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, swept: None }
    }

    /// Takes a report in; returns how many endpoints had no room.
    fn report(&mut self, reporter: &str, loads: &[ClusterLoad], now: Instant) -> u64 {
        self.sweep(now);
        let reporter: Arc<str> = reporter.into();
        let mut dropped = 0;
        for load in loads.iter().filter(|load| is_outbound(&load.cluster)) {
            let cluster: Arc<str> = load.cluster.as_str().into();
            for endpoint in &load.endpoints {
                let Some(address) = endpoint.address else { continue };
                let key = Key { reporter: reporter.clone(), cluster: cluster.clone(), endpoint: address };
                if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
                    dropped += 1;
                    continue;
                }
                self.entries.entry(key).or_default().add(endpoint, load.interval, now);
            }
        }
        dropped
    }

    fn gone(&mut self, reporter: &str) {
        for (_, window) in self.entries.iter_mut().filter(|(key, _)| &*key.reporter == reporter) {
            window.nothing_in_flight();
        }
    }

    fn by_endpoint(&self, now: Instant) -> HashMap<SocketAddr, Load> {
        self.sums(now, |key| key.endpoint)
    }

    fn by_cluster(&self, now: Instant) -> HashMap<Arc<str>, Load> {
        self.sums(now, |key| key.cluster.clone())
    }

    fn sums<K: std::hash::Hash + Eq>(&self, now: Instant, by: impl Fn(&Key) -> K) -> HashMap<K, Load> {
        let mut sums: HashMap<K, Load> = HashMap::new();
        for (key, window) in &self.entries {
            if let Some(load) = window.load(now) {
                let sum = sums.entry(by(key)).or_default();
                *sum = sum.plus(load);
            }
        }
        sums
    }

    /// Removes what was not reported on for a whole window, at most once per second: reports come often.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < Duration::from_secs(1)) {
            return;
        }
        self.swept = Some(now);
        self.entries.retain(|_, window| window.load(now).is_some());
    }
}

fn is_outbound(cluster: &str) -> bool {
    cluster != PASSTHROUGH && cluster != INBOUND && !cluster.starts_with("inbound:")
}

#[cfg(test)]
mod tests;
