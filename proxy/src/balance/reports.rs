//! What endpoints report of their load (ORCA), and the weights that follow from it: client-side weighted round robin,
//! gRFC A58.
//!
//! An endpoint that does `qps` requests per second at a utilisation `u` would do `qps / u` if it were full; errors count
//! as if they cost more: `weight = qps / (u + eps / qps * penalty)`. A weight is used once reports have come for the
//! blackout period, and until none has come for the expiration period; who has none gets the median.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use weft_xds::orca::OrcaLoadReport;

use crate::cluster::endpoint::process_clock;

/// The settings; Envoy's names and defaults.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LoadReports {
    pub(crate) blackout: Duration,
    pub(crate) expiration: Duration,
    /// How often weights are looked at.
    pub(crate) period: Duration,
    pub(crate) penalty: f64,
    /// What the utilisation is the largest of, as far as it is reported.
    pub(crate) metrics: Vec<String>,
}

/// What an endpoint's reports came to. Written by data threads, one after the other wins; read where rotations are made.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    /// The bits of the last weight.
    weight: AtomicU64,
    /// Milliseconds of [`process_clock`] since which reports keep coming; 0 is "none do".
    since: AtomicU64,
    /// The same of the last one.
    last: AtomicU64,
}

// === impl LoadReports ===

impl LoadReports {
    /// The weight that a report means; `None` if it says nothing.
    pub(crate) fn weight(&self, report: &OrcaLoadReport) -> Option<f64> {
        let qps = report.rps_fractional;
        let is_positive = |number: &f64| *number > 0.0 && number.is_finite();
        if !is_positive(&qps) {
            return None;
        }
        let errors = report.eps.max(0.0) / qps * self.penalty;
        let weight = qps / (self.utilization(report) + errors);
        Some(weight).filter(is_positive)
    }

    fn utilization(&self, report: &OrcaLoadReport) -> f64 {
        let named = self.metrics.iter().filter_map(|name| report.metric(name)).fold(0.0, f64::max);
        [named, report.application_utilization].into_iter().find(|found| *found > 0.0).unwrap_or(
            // What is left may be 0, and then says nothing.
            report.cpu_utilization.max(0.0),
        )
    }
}

impl Default for LoadReports {
    fn default() -> Self {
        Self {
            blackout: Duration::from_secs(10),
            expiration: Duration::from_secs(180),
            period: Duration::from_secs(1),
            penalty: 1.0,
            metrics: Vec::new(),
        }
    }
}

// === impl Reported ===

impl Reported {
    /// Takes note of a report.
    pub(crate) fn record(&self, weight: f64) {
        let now = process_clock();
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
        if self.since.load(Ordering::Relaxed) == 0 {
            self.since.store(now, Ordering::Relaxed);
        }
    }

    /// The weight, if it can be used.
    pub(super) fn weight(&self, settings: &LoadReports) -> Option<f64> {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return None;
        }
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = process_clock();
        if now.saturating_sub(self.last.load(Ordering::Relaxed)) > millis(settings.expiration) {
            // Reports that come again must come for a while before they count again.
            self.since.store(0, Ordering::Relaxed);
            return None;
        }
        if now.saturating_sub(since) < millis(settings.blackout) {
            return None;
        }
        Some(f64::from_bits(self.weight.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(qps: f64, eps: f64, cpu: f64, application: f64) -> OrcaLoadReport {
        OrcaLoadReport {
            rps_fractional: qps,
            eps,
            cpu_utilization: cpu,
            application_utilization: application,
            named_metrics: [("queue".to_owned(), 0.25)].into(),
            ..OrcaLoadReport::default()
        }
    }

    #[test]
    fn the_weight_is_that_of_a58() {
        let settings = LoadReports::default();
        assert_eq!(settings.weight(&report(100.0, 0.0, 0.5, 0.0)), Some(200.0));
        assert_eq!(settings.weight(&report(100.0, 0.0, 0.5, 0.8)), Some(125.0));
        assert_eq!(settings.weight(&report(100.0, 30.0, 0.5, 0.0)), Some(125.0));
        for nothing in [(0.0, 0.0, 0.5, 0.0), (100.0, 0.0, 0.0, 0.0), (f64::NAN, 0.0, 0.5, 0.0)] {
            let (qps, eps, cpu, application) = nothing;
            assert_eq!(settings.weight(&report(qps, eps, cpu, application)), None, "{nothing:?}");
        }
        let metrics = vec!["named_metrics.queue".to_owned(), "named_metrics.none".to_owned()];
        let named = LoadReports { metrics, penalty: 2.0, ..settings };
        assert_eq!(named.weight(&report(100.0, 0.0, 0.5, 0.8)), Some(400.0));
        assert_eq!(named.weight(&report(100.0, 12.5, 0.5, 0.8)), Some(200.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_weight_counts_after_the_blackout_and_until_reports_are_too_old() {
        let settings = LoadReports::default();
        let reported = Reported::default();
        assert_eq!(reported.weight(&settings), None);
        let after = async |seconds| tokio::time::advance(Duration::from_secs(seconds)).await;
        reported.record(7.0);
        after(9).await;
        assert_eq!(reported.weight(&settings), None);
        after(2).await;
        assert_eq!(reported.weight(&settings), Some(7.0));
        after(180).await;
        assert_eq!(reported.weight(&settings), None);
        reported.record(8.0);
        after(1).await;
        assert_eq!(reported.weight(&settings), None, "the blackout begins anew");
        after(10).await;
        assert_eq!(reported.weight(&settings), Some(8.0));
    }
}
