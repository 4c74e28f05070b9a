//! Outlier detection: endpoints that answer with errors in a row leave the rotation for a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::cluster::{Cluster, endpoint::Endpoint};

/// The settings; Envoy's defaults where the configuration is silent.
#[derive(Debug)]
pub(crate) struct Outlier {
    /// Server errors in a row that eject.
    pub(crate) consecutive_5xx: u32,
    /// The first ejection; the n-th lasts n times as long.
    pub(crate) base_ejection: Duration,
    pub(crate) max_ejection: Duration,
    /// Share of the endpoints that may be out at a time.
    pub(crate) max_percent: u32,
    /// Held while an ejection is decided, so that two workers do not both use the last of `max_percent`.
    pub(crate) deciding: AtomicBool,
}

impl Outlier {
    /// Takes note of an answer: `failed` for a 5xx, or none at all.
    pub(crate) fn record(&self, cluster: &Cluster, endpoint: &Arc<Endpoint>, failed: bool) {
        if !failed {
            // A plain load first: in good times nobody writes to the shared line.
            if endpoint.consecutive_5xx.load(Ordering::Relaxed) != 0 {
                endpoint.consecutive_5xx.store(0, Ordering::Relaxed);
            }
            return;
        }
        let failures = endpoint.consecutive_5xx.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < self.consecutive_5xx || self.deciding.swap(true, Ordering::Acquire) {
            return;
        }
        let hosts = cluster.endpoints.load();
        let ejected = hosts.eligible.iter().filter(|host| host.endpoint.is_ejected()).count();
        let allowed = (hosts.eligible.len() * self.max_percent as usize / 100).max(1);
        if ejected < allowed && !endpoint.is_ejected() {
            let times = endpoint.ejections.fetch_add(1, Ordering::Relaxed) + 1;
            let duration = self.base_ejection.saturating_mul(times).min(self.max_ejection);
            endpoint.eject(duration);
            endpoint.consecutive_5xx.store(0, Ordering::Relaxed);
            tracing::info!(cluster = %cluster.name, endpoint = %endpoint.address, ?duration, "endpoint ejected");
        }
        self.deciding.store(false, Ordering::Release);
    }
}
