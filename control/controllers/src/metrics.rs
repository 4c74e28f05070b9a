//! What the controllers tell about themselves.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Metrics of all controllers.
pub(crate) struct Metrics {
    depth: IntGaugeVec,
    reconciliations: IntCounterVec,
    seconds: HistogramVec,
}

/// Metrics of one controller.
#[derive(Debug, Clone)]
pub(crate) struct ControllerMetrics {
    pub(crate) name: &'static str,
    /// Keys that wait to be worked on.
    pub(crate) depth: IntGauge,
    /// Reconciliations that ended well.
    pub(crate) done: IntCounter,
    /// Reconciliations that failed.
    pub(crate) failed: IntCounter,
    /// How long reconciliations take.
    pub(crate) seconds: Histogram,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(registry: Option<&Registry>) -> Result<Self, prometheus::Error> {
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 15)?;
        let metrics = Self {
            depth: IntGaugeVec::new(
                Opts::new("workqueue_depth", "Keys that wait to be worked on."),
                &["name"],
            )?,
            reconciliations: IntCounterVec::new(
                Opts::new("controller_reconciliations_total", "Reconciliations, by controller and result."),
                &["controller", "result"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("workqueue_work_duration_seconds", "How long working on a key takes.")
                    .buckets(buckets),
                &["name"],
            )?,
        };
        if let Some(registry) = registry {
            registry.register(Box::new(metrics.depth.clone()))?;
            registry.register(Box::new(metrics.reconciliations.clone()))?;
            registry.register(Box::new(metrics.seconds.clone()))?;
        }
        Ok(metrics)
    }

    pub(crate) fn of(&self, name: &'static str) -> ControllerMetrics {
        ControllerMetrics {
            name,
            depth: self.depth.with_label_values(&[name]),
            done: self.reconciliations.with_label_values(&[name, "ok"]),
            failed: self.reconciliations.with_label_values(&[name, "error"]),
            seconds: self.seconds.with_label_values(&[name]),
        }
    }
}

#[cfg(test)]
impl ControllerMetrics {
    pub(crate) fn unregistered(name: &'static str) -> Self {
        Metrics::new(None).expect("names and buckets are valid").of(name)
    }
}
