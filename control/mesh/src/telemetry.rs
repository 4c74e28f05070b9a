//! Metrics of the mesh control itself. Those of the xDS server are its own.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGaugeVec, Opts, Registry};

/// From 100 µs to about 13 s.
const LAG_BUCKETS: (f64, f64, usize) = (0.0001, 2.0, 18);

pub(crate) struct Telemetry {
    proxies: IntGaugeVec,
    snapshots: IntCounter,
    build: Histogram,
    lag: Histogram,
    /// When the change began that each proxy was told of last, where it was not told of the last one of `pending_all`.
    pending: Mutex<HashMap<String, Instant>>,
    /// When the change began that all proxies were told of last.
    pending_all: Mutex<Option<Instant>>,
}

// === impl Telemetry ===

impl Telemetry {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (start, factor, count) = LAG_BUCKETS;
        let buckets = prometheus::exponential_buckets(start, factor, count)?;
        let histogram = |name: &str, help: &str| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.clone()))
        };
        let telemetry = Self {
            proxies: IntGaugeVec::new(
                Opts::new("weft_mesh_proxies", "Connected proxies that get a configuration"),
                &["kind"],
            )?,
            snapshots: IntCounter::new("weft_mesh_snapshots_total", "Snapshots given to proxies")?,
            build: histogram(
                "weft_mesh_publish_duration_seconds",
                "Time from a change of the mesh's state to the snapshots of all proxies",
            )?,
            lag: histogram(
                "weft_mesh_config_lag_seconds",
                "Time from a change of the mesh's state to a proxy's answer to it",
            )?,
            pending: Mutex::default(),
            pending_all: Mutex::default(),
        };
        registry.register(Box::new(telemetry.proxies.clone()))?;
        registry.register(Box::new(telemetry.snapshots.clone()))?;
        registry.register(Box::new(telemetry.build.clone()))?;
        registry.register(Box::new(telemetry.lag.clone()))?;
        Ok(telemetry)
    }

    pub(crate) fn proxies(&self, sidecars: usize, gateways: usize) {
        for (kind, number) in [("sidecar", sidecars), ("gateway", gateways)] {
            self.proxies.with_label_values(&[kind]).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
    }

    /// A change that began at `since` is about to be given to the proxy.
    pub(crate) fn publishing(&self, proxy: &str, since: Instant) {
        self.snapshots.inc();
        self.pending.lock().insert(proxy.to_owned(), since);
    }

    /// A change that began at `since` is about to be given to all proxies that asked for what it is about.
    pub(crate) fn publishing_to_all(&self, since: Instant) {
        self.snapshots.inc();
        *self.pending_all.lock() = Some(since);
    }

    pub(crate) fn published(&self, proxies: usize, took: Duration) {
        if proxies > 0 {
            self.build.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn answered(&self, proxy: &str, now: Instant) {
        let alone = self.pending.lock().get(proxy).copied();
        if let Some(since) = alone.max(*self.pending_all.lock()) {
            self.lag.observe(now.saturating_duration_since(since).as_secs_f64());
        }
    }

    pub(crate) fn forget(&self, proxy: &str) {
        self.pending.lock().remove(proxy);
    }
}
