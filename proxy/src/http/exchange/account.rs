//! Counting, and the access log.

use std::{
    mem::ManuallyDrop,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;
use weft_xds::orca;

use super::{Ended, Exchange, Reason, Record, refusal};
use crate::{
    access_log::Entry,
    balance::Policy,
    cluster::{Cluster, endpoint::Endpoint, outlier::Event},
    http::{body::Source, head::Head},
    metrics::{ClusterCells, count_class},
    pool::AcquireError,
};

/// One request at an endpoint, counted from its start to its drop.
pub(crate) struct Attempt<'a> {
    cluster: &'a Arc<Cluster>,
    endpoint: &'a Arc<Endpoint>,
    worker: usize,
    started: Instant,
    /// When it was complete, if that is known before the drop.
    ended: Option<Instant>,
    status: Option<u16>,
    failed: bool,
    /// Whether the balancer counts on an answer.
    waiting: bool,
    /// Whether it counts as one without an answer already.
    late: bool,
}

/// An attempt between two owners; to be resumed at once, since it is under way for as long.
pub(super) struct Parked {
    worker: usize,
    started: Instant,
    status: Option<u16>,
    failed: bool,
    waiting: bool,
    late: bool,
}

// === impl Attempt ===

impl<'a> Attempt<'a> {
    pub(crate) fn start(
        cluster: &'a Arc<Cluster>,
        endpoint: &'a Arc<Endpoint>,
        worker: usize,
        started: Instant,
    ) -> Self {
        cluster.stats.at(worker).rq_total.add(1);
        endpoint.stats.rq_total.fetch_add(1, Ordering::Relaxed);
        endpoint.stats.rq_active.fetch_add(1, Ordering::Relaxed);
        let waiting = matches!(cluster.balancing.policy, Policy::PeakEwma(_));
        if waiting {
            endpoint.latency.begin(started);
        }
        Self {
            cluster,
            endpoint,
            worker,
            started,
            ended: None,
            status: None,
            failed: false,
            waiting,
            late: false,
        }
    }

    pub(crate) fn cells(&self) -> &ClusterCells {
        self.cluster.stats.at(self.worker)
    }

    /// The head of the answer came; how long that took.
    pub(crate) fn answered(&mut self, head: &Head) -> Duration {
        let status = head.status;
        self.status = Some(status);
        let now = Instant::now();
        let latency = now - self.started;
        if let Policy::PeakEwma(settings) = &self.cluster.balancing.policy {
            if refusal::is_refusal(head) {
                self.endpoint.latency.failed(now, refusal::retry_after(head));
            } else {
                self.endpoint.latency.record(latency, now, settings);
            }
            self.stop_waiting(now);
        }
        if let Some(outlier) = &self.cluster.outlier
            && !self.late
        {
            outlier.record(self.cluster, self.endpoint, Event::Answer { status });
        }
        if self.cluster.balancing.reports.is_some() {
            let report = head.fields().find(|(_, name, _)| orca::is_report(name));
            self.reported(report.map(|(_, name, value)| (name, value)));
        }
        latency
    }

    /// The trailers of the answer came.
    pub(super) fn trailed(&mut self, body: &Source<'_>) {
        if self.cluster.balancing.reports.is_some() {
            self.reported(body.load_report());
        }
    }

    /// The endpoint said of its load what is in this field.
    fn reported(&self, field: Option<(&[u8], &[u8])>) {
        let Some(settings) = &self.cluster.balancing.reports else { return };
        let report = field.and_then(|(name, value)| orca::parse(name, value));
        if let Some(weight) = report.and_then(|report| settings.weight(&report)) {
            self.endpoint.reported.record(weight);
        }
    }

    /// All of the answer came and was passed on; when that was.
    pub(crate) fn completed(&mut self) -> Instant {
        *self.ended.insert(Instant::now())
    }

    /// There will be no answer, and it is the upstream's fault.
    pub(crate) fn failed(&mut self, timeout: bool) {
        self.failed = true;
        if timeout {
            self.endpoint.stats.rq_timeout.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(self.cluster.balancing.policy, Policy::PeakEwma(_)) {
            let now = Instant::now();
            self.endpoint.latency.failed(now, None);
            self.stop_waiting(now);
        }
        if let Some(outlier) = &self.cluster.outlier
            && !self.late
        {
            outlier.record(self.cluster, self.endpoint, Event::NoAnswer);
        }
    }

    /// It takes longer than one should, and goes on.
    pub(super) fn late(&mut self) {
        self.late = true;
        if self.waiting {
            let now = Instant::now();
            self.endpoint.latency.at_least(now - self.started, now);
        }
        if let Some(outlier) = &self.cluster.outlier {
            outlier.record(self.cluster, self.endpoint, Event::NoAnswer);
        }
    }

    /// Lets go of what it borrows; it is not over.
    pub(super) fn park(self) -> Parked {
        let Self { worker, started, status, failed, waiting, late, .. } = *ManuallyDrop::new(self);
        Parked { worker, started, status, failed, waiting, late }
    }

    /// There is no connection. That the cluster may have no more of them is not the endpoint's fault.
    pub(crate) fn not_acquired(&mut self, error: &AcquireError) {
        if !matches!(error, AcquireError::Overflow) {
            self.failed(false);
        }
    }

    fn stop_waiting(&mut self, now: Instant) {
        if std::mem::take(&mut self.waiting) {
            self.endpoint.latency.end(now);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.waiting {
            // Nobody waits any more: an answer would have taken longer than this.
            let now = Instant::now();
            self.endpoint.latency.at_least(now - self.started, now);
            self.stop_waiting(now);
        }
        let elapsed = self.ended.unwrap_or_else(Instant::now) - self.started;
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

// === impl Parked ===

impl Parked {
    /// Goes on at the same endpoint.
    pub(super) fn resume<'a>(self, cluster: &'a Arc<Cluster>, endpoint: &'a Arc<Endpoint>) -> Attempt<'a> {
        let Self { worker, started, status, failed, waiting, late } = self;
        Attempt { cluster, endpoint, worker, started, ended: None, status, failed, waiting, late }
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Tells those who wait for it how this ended.
    pub(super) fn tell_endings(&mut self, status: u16) {
        let record = &mut self.record;
        if !record.endings.is_empty() {
            let Record { grpc_trailer, complete, .. } = *record;
            record.endings.tell(&Ended { status, response: self.response, grpc_trailer, complete });
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.tell_endings(self.record.status);
        let manager = &self.cx.manager;
        let cells = manager.stats.at(self.cx.worker.index);
        let elapsed = self.ended.unwrap_or_else(Instant::now) - self.started;
        let record = &mut self.record;
        if record.status == 0 && !record.reason.is_error() {
            record.reason = Reason::DownstreamDisconnect;
        }
        if record.reason.is_error() {
            cells.rq_error.of(record.reason).add(1);
        }
        cells.rq_completed.add(1);
        count_class(&cells.rq_class, record.status);
        cells.rq_time.record(elapsed);
        for log in &manager.access_logs {
            let entry = Entry {
                request: Some(self.request),
                response: Some(self.response),
                status: record.status,
                record,
                duration: elapsed,
                peer: self.cx.peer,
                local: self.cx.local,
                connection: self.cx.id,
                tls: self.cx.tls.as_deref(),
            };
            log.write(&entry, &self.cx.worker);
        }
    }
}
