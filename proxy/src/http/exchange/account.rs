//! Counting, and the access log.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::Exchange;
use crate::{
    access_log::Entry,
    cluster::{Cluster, endpoint::Endpoint},
    metrics::{ClusterCells, count_class},
};

/// Why a response is not the upstream's, in Envoy's words.
pub(crate) mod flags {
    pub(crate) const NONE: &str = "";
    pub(crate) const NO_ROUTE: &str = "NR";
    pub(crate) const NO_CLUSTER: &str = "NC";
    pub(crate) const NO_HEALTHY: &str = "UH";
    pub(crate) const CONNECT_FAILURE: &str = "UF";
    pub(crate) const UPSTREAM_CLOSED: &str = "UC";
    pub(crate) const UPSTREAM_TIMEOUT: &str = "UT";
    pub(crate) const UPSTREAM_PROTOCOL: &str = "UPE";
    pub(crate) const OVERFLOW: &str = "UO";
    pub(crate) const DOWNSTREAM_CLOSED: &str = "DC";
    pub(crate) const DOWNSTREAM_PROTOCOL: &str = "DPE";
    pub(crate) const IDLE_TIMEOUT: &str = "SI";
}

/// One request at an endpoint, counted from its start to its drop.
pub(super) struct Attempt {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    worker: usize,
    started: Instant,
    status: Option<u16>,
    failed: bool,
}

// === impl Attempt ===

impl Attempt {
    pub(super) fn start(
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
        worker: usize,
        started: Instant,
    ) -> Self {
        cluster.stats.at(worker).rq_total.add(1);
        endpoint.stats.rq_total.fetch_add(1, Ordering::Relaxed);
        endpoint.stats.rq_active.fetch_add(1, Ordering::Relaxed);
        Self {
            cluster: Arc::clone(cluster),
            endpoint: Arc::clone(endpoint),
            worker,
            started,
            status: None,
            failed: false,
        }
    }

    pub(super) fn cells(&self) -> &ClusterCells {
        self.cluster.stats.at(self.worker)
    }

    /// The head of the answer came; how long that took.
    pub(super) fn answered(&mut self, status: u16) -> Duration {
        self.status = Some(status);
        let latency = self.started.elapsed();
        self.endpoint.ewma.record(latency);
        if let Some(outlier) = &self.cluster.outlier {
            outlier.record(&self.cluster, &self.endpoint, status >= 500);
        }
        latency
    }

    /// There will be no answer, and it is the upstream's fault.
    pub(super) fn failed(&mut self, timeout: bool) {
        self.failed = true;
        if timeout {
            self.endpoint.stats.rq_timeout.fetch_add(1, Ordering::Relaxed);
            // To the balancer a timeout is an answer that took this long.
            self.endpoint.ewma.record(self.started.elapsed());
        }
        if let Some(outlier) = &self.cluster.outlier {
            outlier.record(&self.cluster, &self.endpoint, true);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let stats = &self.endpoint.stats;
        let cells = self.cells();
        match self.status {
            Some(status) => {
                count_class(&cells.rq_class, status);
                cells.rq_time.record(elapsed);
                if status >= 500 { &stats.rq_error } else { &stats.rq_success }
                    .fetch_add(1, Ordering::Relaxed);
                stats.rq_micros.fetch_add(elapsed.as_micros() as u64, Ordering::Relaxed);
            }
            None if self.failed => {
                stats.rq_error.fetch_add(1, Ordering::Relaxed);
            }
            None => cells.rq_cancelled.add(1),
        }
        cells.rq_completed.add(1);
        stats.rq_active.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Exchange ===

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let manager = &self.cx.manager;
        let cells = manager.stats.at(self.cx.worker.index);
        let elapsed = self.started.elapsed();
        let record = &mut self.record;
        if record.status == 0 && record.flags.is_empty() {
            record.flags = flags::DOWNSTREAM_CLOSED;
        }
        cells.rq_completed.add(1);
        count_class(&cells.rq_class, record.status);
        cells.rq_time.record(elapsed);
        for log in &manager.access_logs {
            log.write(&Entry {
                request: Some(self.request),
                response: Some(self.response),
                record,
                duration: elapsed,
                peer: self.cx.peer,
                local: self.cx.local,
            });
        }
    }
}
