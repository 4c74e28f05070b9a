//! Clusters: a set of endpoints with the rules for reaching them.

pub(crate) mod breaker;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod manager;
pub(crate) mod outlier;

use std::{sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::{
    balance::Policy,
    cluster::{
        breaker::Breaker,
        endpoint::{Endpoint, EndpointSet},
        health::HealthCheck,
        outlier::Outlier,
    },
    metrics::{ClusterCells, PerWorker},
};

/// A compiled cluster. Immutable but for its endpoint set and the state of its parts.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Unique in the process; what workers keep for a cluster is keyed by it.
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) discovery: Discovery,
    pub(crate) connect_timeout: Duration,
    pub(crate) protocol: UpstreamProtocol,
    pub(crate) http2: Http2Settings,
    pub(crate) policy: Policy,
    /// Share of endpoints, in percent, below which the health found by ourselves is not believed any more.
    pub(crate) panic_threshold: f64,
    /// How long an idle connection is kept; `None` for ever.
    pub(crate) idle_timeout: Option<Duration>,
    /// Requests after which a connection is not used again.
    pub(crate) max_requests_per_connection: Option<u32>,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) breaker: Breaker,
    pub(crate) outlier: Option<Outlier>,
    pub(crate) health_checks: Vec<HealthCheck>,
    /// Swapped by discovery; endpoints that stay keep their identity and with it their state.
    pub(crate) endpoints: ArcSwap<EndpointSet>,
    pub(crate) stats: Arc<PerWorker<ClusterCells>>,
}

/// Where the endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Discovery {
    /// Written in the configuration.
    Static,
    /// From the endpoint discovery service, under this name.
    Eds { service_name: String },
    /// From the name system.
    Dns(dns::DnsConfig),
    /// Each connection goes where the client wanted to go.
    OriginalDst { port_override: Option<u16> },
}

/// What is spoken with the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamProtocol {
    Http1,
    Http2,
    /// What the client speaks.
    Downstream,
}

/// HTTP/2 limits, with Envoy's edge guide for defaults.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Http2Settings {
    pub(crate) max_concurrent_streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) keepalive: Option<(Duration, Duration)>,
}

/// TCP keep-alive probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) time: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) probes: Option<u32>,
}

/// The place of a cluster by name: routes keep it, updates fill it. Empty while the cluster is not known.
#[derive(Debug)]
pub(crate) struct ClusterSlot {
    current: ArcSwapOption<Cluster>,
}

// === impl ClusterSlot ===

impl ClusterSlot {
    pub(crate) fn empty() -> Self {
        Self { current: ArcSwapOption::empty() }
    }

    pub(crate) fn get(&self) -> Option<Arc<Cluster>> {
        self.current.load_full()
    }

    pub(crate) fn set(&self, cluster: Option<Arc<Cluster>>) {
        self.current.store(cluster);
    }
}

// === impl Cluster ===

impl Cluster {
    /// Puts a new endpoint set in place; endpoints that are not in it any more are marked gone.
    pub(crate) fn replace_endpoints(&self, set: EndpointSet) {
        let before = self.endpoints.swap(Arc::new(set));
        let now = self.endpoints.load();
        for host in &before.hosts {
            if now.find(host.endpoint.address).is_none() {
                host.endpoint.mark_gone();
            }
        }
        for host in &now.hosts {
            host.endpoint.mark_present();
        }
    }

    /// Whether our own observation, in contrast to the configuration, says that the endpoint is fit.
    pub(crate) fn is_fit(&self, endpoint: &Endpoint) -> bool {
        !endpoint.is_failing_checks() && !endpoint.is_ejected()
    }
}

// === impl Http2Settings ===

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            keepalive: None,
        }
    }
}
