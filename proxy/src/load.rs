//! What load reports tell: requests per endpoint since the last report.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use weft_xds::load::{ClusterLoad, EndpointLoad, LoadSource, Locality};

use crate::{
    cluster::{Cluster, Discovery, endpoint::Host},
    config::state::State,
};

/// Reads the endpoints' counters and remembers what was told before.
pub(crate) struct Loads {
    state: Arc<Mutex<State>>,
    /// By endpoint.
    told: Mutex<HashMap<u64, Told>>,
}

/// Counters at the last report.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    issued: u64,
    succeeded: u64,
    errored: u64,
    micros: u64,
}

// === impl Loads ===

impl Loads {
    pub(crate) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state, told: Mutex::default() }
    }
}

impl LoadSource for Loads {
    fn collect(&self) -> Vec<ClusterLoad> {
        let clusters: Vec<Arc<Cluster>> =
            self.state.lock().clusters.values().map(|entry| Arc::clone(&entry.cluster)).collect();
        let mut told = self.told.lock();
        let mut next = HashMap::with_capacity(told.len());
        let loads = clusters
            .iter()
            .map(|cluster| {
                let endpoints = cluster
                    .endpoints
                    .load()
                    .hosts
                    .iter()
                    .map(|host| {
                        let before = told.get(&host.endpoint.id).copied().unwrap_or_default();
                        let (load, now) = endpoint_load(host, before);
                        next.insert(host.endpoint.id, now);
                        load
                    })
                    .collect();
                let service = match &cluster.discovery {
                    Discovery::Eds { service_name, .. } if **service_name != *cluster.name => {
                        service_name.clone()
                    }
                    _ => String::new(),
                };
                ClusterLoad {
                    cluster: cluster.name.to_string(),
                    service,
                    dropped: 0,
                    interval: Duration::ZERO,
                    endpoints,
                }
            })
            .collect();
        *told = next;
        loads
    }
}

fn endpoint_load(host: &Host, before: Told) -> (EndpointLoad, Told) {
    let stats = &host.endpoint.stats;
    let now = Told {
        issued: stats.rq_total.load(Ordering::Relaxed),
        succeeded: stats.rq_success.load(Ordering::Relaxed),
        errored: stats.rq_error.load(Ordering::Relaxed),
        micros: stats.rq_micros.load(Ordering::Relaxed),
    };
    let zone = &host.zone;
    let load = EndpointLoad {
        address: Some(host.endpoint.address),
        locality: Some(Locality {
            region: zone.region.clone(),
            zone: zone.zone.clone(),
            sub_zone: zone.sub_zone.clone(),
        }),
        issued: now.issued.saturating_sub(before.issued),
        succeeded: now.succeeded.saturating_sub(before.succeeded),
        errored: now.errored.saturating_sub(before.errored),
        in_progress: stats.rq_active.load(Ordering::Relaxed),
        latency: Duration::from_micros(now.micros.saturating_sub(before.micros)),
    };
    (load, now)
}
