//! What outlier detection counts for a cluster.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Detector;

/// Ejections are rare, so that one set for all threads will do.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    detected: [AtomicU64; Detector::ALL.len()],
    enforced: [AtomicU64; Detector::ALL.len()],
    /// Not enforced because as many as may be were out already.
    overflow: AtomicU64,
}

// === impl Counts ===

impl Counts {
    pub(super) fn detected(&self, detector: Detector) {
        self.detected[detector as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn enforced(&self, detector: Detector) {
        self.enforced[detector as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn overflow(&self) {
        self.overflow.fetch_add(1, Ordering::Relaxed);
    }

    /// Envoy's names, below `outlier_detection`, with their values.
    pub(crate) fn read(&self) -> Vec<(String, u64)> {
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let total = self.enforced.iter().map(value).sum();
        let mut all = vec![
            ("ejections_enforced_total".to_owned(), total),
            ("ejections_overflow".to_owned(), value(&self.overflow)),
        ];
        for detector in Detector::ALL {
            let name = detector.name();
            all.push((format!("ejections_detected_{name}"), value(&self.detected[detector as usize])));
            all.push((format!("ejections_enforced_{name}"), value(&self.enforced[detector as usize])));
        }
        all
    }
}

// === impl Detector ===

impl Detector {
    fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::LocalOriginSuccessRate => "local_origin_success_rate",
            Self::LocalOriginFailurePercentage => "local_origin_failure_percentage",
        }
    }
}
