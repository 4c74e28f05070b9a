//! Outlier detection: endpoints that do worse than they should leave the rotation for a time.
//!
//! Data threads count failures in a row, with plain loads in good times, and eject. What needs a comparison of endpoints
//! is done once per interval by [`interval::run`], off the data threads.

pub(crate) mod counts;
pub(crate) mod interval;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use self::counts::Counts;
use crate::cluster::{Cluster, endpoint::Endpoint};

/// What is looked for; the order is that of [`Settings::enforcing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detector {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    FailurePercentage,
    LocalOriginSuccessRate,
    LocalOriginFailurePercentage,
}

/// The settings; Envoy's defaults where the configuration is silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Failures in a row that eject, of the first three detectors.
    pub(crate) consecutive: [u32; 3],
    /// Share of detections, in percent, that have consequences.
    pub(crate) enforcing: [u32; Detector::ALL.len()],
    /// Whether what never became an answer is told apart from bad answers.
    pub(crate) split: bool,
    pub(crate) interval: Duration,
    /// The first ejection; the n-th lasts n times as long.
    pub(crate) base_ejection: Duration,
    pub(crate) max_ejection: Duration,
    /// Up to this is added to each, at random.
    pub(crate) jitter: Duration,
    /// Share of the endpoints that may be out at a time; one always may.
    pub(crate) max_percent: u32,
    pub(crate) success_rate: Comparison,
    pub(crate) failure_percentage: Comparison,
}

/// When endpoints are compared, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// With fewer endpoints of enough requests there is none.
    pub(crate) hosts: usize,
    /// Requests in an interval that are enough.
    pub(crate) requests: u64,
    /// For the success rate: the allowed distance below the mean, in thousandths of the standard deviation. For the
    /// failure percentage: the percentage.
    pub(crate) threshold: u32,
}

/// The detection of one cluster.
#[derive(Debug)]
pub(crate) struct Outlier {
    pub(crate) settings: Settings,
    pub(crate) counts: Arc<Counts>,
    /// Held while an ejection is decided, so that two threads do not both use the last of `max_percent`.
    deciding: AtomicBool,
}

/// What is remembered of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    /// Failures in a row, by the first three detectors.
    consecutive: [AtomicU32; 3],
    /// Failures without an answer since the endpoint is known.
    local_failures: AtomicU64,
    /// Raised by each ejection, lowered by each interval outside.
    ejections: AtomicU32,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Answer { status: u16 },
    NoAnswer,
}

// === impl Detector ===

impl Detector {
    pub(crate) const ALL: [Self; 7] = [
        Self::Consecutive5xx,
        Self::ConsecutiveGatewayFailure,
        Self::ConsecutiveLocalOriginFailure,
        Self::SuccessRate,
        Self::FailurePercentage,
        Self::LocalOriginSuccessRate,
        Self::LocalOriginFailurePercentage,
    ];
    const CONSECUTIVE: [Self; 3] =
        [Self::Consecutive5xx, Self::ConsecutiveGatewayFailure, Self::ConsecutiveLocalOriginFailure];
}

// === impl Outlier ===

impl Outlier {
    pub(crate) fn new(settings: Settings, counts: Arc<Counts>) -> Self {
        Self { settings, counts, deciding: AtomicBool::new(false) }
    }

    /// Takes note of how a request at `endpoint` ended.
    pub(crate) fn record(&self, cluster: &Cluster, endpoint: &Arc<Endpoint>, event: Event) {
        let split = self.settings.split;
        let failed = match event {
            Event::Answer { status } => [status >= 500, (502..=504).contains(&status), false],
            Event::NoAnswer => {
                endpoint.monitor.local_failures.fetch_add(1, Ordering::Relaxed);
                [!split, !split, split]
            }
        };
        for detector in Detector::CONSECUTIVE {
            let streak = &endpoint.monitor.consecutive[detector as usize];
            if failed[detector as usize] {
                let failures = streak.fetch_add(1, Ordering::Relaxed) + 1;
                if failures == self.settings.consecutive[detector as usize] {
                    // Ejected or not, it begins anew.
                    streak.store(0, Ordering::Relaxed);
                    self.detected(cluster, endpoint, detector);
                }
            } else if streak.load(Ordering::Relaxed) != 0 && (event != Event::NoAnswer || !split) {
                // A plain load first: in good times nobody writes to the shared line.
                streak.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Ejects an endpoint, if that is to have consequences and others are left.
    fn detected(&self, cluster: &Cluster, endpoint: &Arc<Endpoint>, detector: Detector) {
        if endpoint.is_ejected() || self.deciding.swap(true, Ordering::Acquire) {
            return;
        }
        self.counts.detected(detector);
        if rand::random_range(0..100) < self.settings.enforcing[detector as usize] {
            let hosts = cluster.endpoints.load();
            let ejected = hosts.eligible.iter().filter(|host| host.endpoint.is_ejected()).count();
            let allowed = (hosts.eligible.len() * self.settings.max_percent as usize / 100).max(1);
            if ejected < allowed {
                self.eject(cluster, endpoint, detector);
            } else {
                self.counts.overflow();
            }
        }
        self.deciding.store(false, Ordering::Release);
    }

    fn eject(&self, cluster: &Cluster, endpoint: &Endpoint, detector: Detector) {
        let times = endpoint.monitor.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let jitter = self.settings.jitter.mul_f64(rand::random());
        let duration =
            self.settings.base_ejection.saturating_mul(times).min(self.settings.max_ejection) + jitter;
        endpoint.eject(duration);
        for streak in &endpoint.monitor.consecutive {
            streak.store(0, Ordering::Relaxed);
        }
        self.counts.enforced(detector);
        cluster.changed.notify_one();
        tracing::info!(cluster = %cluster.name, endpoint = %endpoint.address, ?detector, ?duration, "endpoint ejected");
    }
}
