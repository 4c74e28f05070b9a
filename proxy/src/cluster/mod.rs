//! Clusters: a set of endpoints with the rules for reaching them.

pub(crate) mod breaker;
pub(crate) mod directory;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod local;
pub(crate) mod manager;
pub(crate) mod outlier;
pub(crate) mod upkeep;

use std::{collections::HashSet, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    balance::{Balancing, Localities, Rotation},
    cluster::{
        breaker::{Breaker, Priority},
        endpoint::{EndpointSet, Host},
        health::HealthCheck,
        local::LocalCluster,
        outlier::Outlier,
        upkeep::Upkeep,
    },
    config::source::Source,
    http::h2::Http2Settings,
    metrics::{ClusterCells, PerWorker},
    proxy_protocol,
    tls::ClientTls,
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
    pub(crate) balancing: Balancing,
    /// How long an idle connection is kept; `None` for ever.
    pub(crate) idle_timeout: Option<Duration>,
    /// Requests after which a connection is not used again.
    pub(crate) max_requests_per_connection: Option<u32>,
    pub(crate) keepalive: Option<Keepalive>,
    /// What protects connections to the endpoints, if anything.
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// The form in which endpoints are told, ahead of everything else, for whom a connection is.
    pub(crate) proxy_protocol: Option<proxy_protocol::Version>,
    pub(crate) breaker: Breaker,
    /// For requests of high priority.
    pub(crate) breaker_high: Breaker,
    pub(crate) outlier: Option<Outlier>,
    pub(crate) health_checks: Vec<HealthCheck>,
    /// Swapped by discovery; endpoints that stay keep their identity and with it their state.
    pub(crate) endpoints: ArcSwap<EndpointSet>,
    /// What data threads pick from; made of `endpoints` and what is known of their health.
    pub(crate) rotation: ArcSwap<Rotation>,
    /// Told when the rotation is to be made anew, or when that is due may have changed.
    pub(crate) changed: Arc<Notify>,
    /// Told when endpoints came.
    pub(crate) arrivals: Arc<Notify>,
    /// Endpoints stay while they pass their checks, though discovery names them no more.
    pub(crate) keeps_healthy: bool,
    /// Held while the set is exchanged for one that was made from it. Data threads never take it.
    pub(crate) changing: Mutex<()>,
    /// Held while a rotation is made, so that an older one does not replace a newer. Data threads never take it.
    /// In it is the one before, for a moment: a data thread that is just picking from it must not be the last that has
    /// it, since to free it takes time with the number of endpoints.
    pub(crate) refreshing: Mutex<Option<Arc<Rotation>>>,
    pub(crate) stats: Arc<PerWorker<ClusterCells>>,
    /// Where proxies like this one are, if the bootstrap says.
    pub(crate) local: Option<Arc<LocalCluster>>,
    pub(crate) upkeep: Upkeep,
}

/// Where the endpoints come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Discovery {
    /// Written in the configuration.
    Static,
    /// From the endpoint discovery service, under this name.
    Eds { service_name: String, source: Source },
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
    name: Box<str>,
    current: ArcSwapOption<Cluster>,
}

// === impl ClusterSlot ===

impl ClusterSlot {
    pub(crate) fn empty(name: &str) -> Self {
        Self { name: name.into(), current: ArcSwapOption::empty() }
    }

    /// The name of the cluster, there or not.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn get(&self) -> Option<Arc<Cluster>> {
        self.current.load_full()
    }

    pub(crate) fn set(&self, cluster: Option<Arc<Cluster>>) {
        self.current.store(cluster);
    }
}

// === impl Discovery ===

impl Discovery {
    /// What the endpoints are known by, if they are discovered by name.
    pub(crate) fn key(&self) -> Option<String> {
        match self {
            Self::Eds { service_name, source } => Some(source.key(service_name)),
            _ => None,
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Whether its endpoints are, where they come by themselves.
    pub(crate) fn is_known(&self) -> bool {
        !matches!(self.discovery, Discovery::Eds { .. }) || self.endpoints.load().known
    }

    /// The limits for requests of a priority.
    pub(crate) fn breaker_of(&self, priority: Priority) -> &Breaker {
        match priority {
            Priority::Default => &self.breaker,
            Priority::High => &self.breaker_high,
        }
    }

    /// Puts a new endpoint set in place; endpoints that are not in it any more are marked gone, or stay as long as they
    /// pass their checks.
    pub(crate) fn replace_endpoints(&self, set: EndpointSet) {
        let _alone = self.changing.lock();
        let before = self.endpoints.load();
        self.expect_checks(&set, &before);
        self.exchange(if self.keeps_healthy { set.keeping_healthy(&before) } else { set });
        self.arrivals.notify_waiters();
    }

    /// Lets those go that discovery names no more and that do not pass their checks any more.
    pub(crate) fn let_go(&self) {
        let _alone = self.changing.lock();
        let set = self.endpoints.load();
        if self.keeps_healthy && set.hosts.iter().any(Host::is_left_over) {
            self.exchange(set.without_left_overs());
        }
    }

    /// With checks, endpoints that are new are unfit until they have passed the first.
    pub(crate) fn expect_checks(&self, set: &EndpointSet, before: &EndpointSet) {
        if !self.health_checks.is_empty() {
            let known: HashSet<u64> = before.hosts.iter().map(|host| host.endpoint.id).collect();
            for host in set.hosts.iter().filter(|host| !known.contains(&host.endpoint.id)) {
                host.endpoint.await_first_check();
            }
        }
    }

    fn exchange(&self, set: EndpointSet) {
        let before = self.endpoints.swap(Arc::new(set));
        let now = self.endpoints.load();
        let stays: HashSet<u64> = now.hosts.iter().map(|host| host.endpoint.id).collect();
        for host in before.hosts.iter().filter(|host| !stays.contains(&host.endpoint.id)) {
            host.endpoint.mark_gone();
        }
        for host in &now.hosts {
            host.endpoint.mark_present();
        }
        self.refresh();
        // When the new one must be made anew may be sooner.
        self.changed.notify_one();
    }

    /// Makes the rotation anew. Not for data threads: it takes time with the number of endpoints.
    pub(crate) fn refresh(&self) {
        let mut last = self.refreshing.lock();
        let zones = match (&self.balancing.localities, &self.local) {
            (Localities::ByZone(_), Some(local)) => local.zones(self.balancing.panic_threshold),
            _ => None,
        };
        let rotation = Arc::new(Rotation::new(&self.balancing, &self.endpoints.load(), zones.as_ref()));
        let before = self.rotation.swap(Arc::clone(&rotation));
        self.upkeep.record(self, zones.as_ref(), &rotation, &before);
        *last = Some(before);
        if let Some(local) = self.local.as_ref().filter(|local| *local.name == *self.name) {
            local.tell();
        }
    }

    /// Frees the rotation before the one in force. To be called when no pick that began before [`refresh`](Self::refresh)
    /// can be under way any more.
    pub(crate) fn forget_before(&self) {
        *self.refreshing.lock() = None;
    }
}
