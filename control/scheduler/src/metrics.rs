//! What the scheduler tells about itself, under kube-scheduler's names.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry};

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Attempts by `result`: `scheduled`, `unschedulable` or `error`.
    pub(crate) attempts: IntCounterVec,
    /// Waiting pods by `queue`: `active`, `backoff` or `unschedulable`.
    pub(crate) pending: IntGaugeVec,
    /// Seconds from snapshot to decision.
    pub(crate) decision_seconds: Histogram,
    /// Seconds that the API server takes to accept a binding.
    pub(crate) binding_seconds: Histogram,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(registry: Option<&Registry>) -> Result<Self, prometheus::Error> {
        let buckets = prometheus::exponential_buckets(0.000_05, 2.0, 16)?;
        let histogram = |name: &str, help: &str| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.clone()))
        };
        let metrics = Self {
            attempts: IntCounterVec::new(
                Opts::new("scheduler_schedule_attempts_total", "Attempts to schedule a pod, by result."),
                &["result"],
            )?,
            pending: IntGaugeVec::new(
                Opts::new("scheduler_pending_pods", "Pods that wait for a node, by queue."),
                &["queue"],
            )?,
            decision_seconds: histogram(
                "scheduler_scheduling_algorithm_duration_seconds",
                "Time from the snapshot of the cluster to the decision.",
            )?,
            binding_seconds: histogram(
                "scheduler_binding_duration_seconds",
                "Time that the API server takes to accept a binding.",
            )?,
        };
        if let Some(registry) = registry {
            registry.register(Box::new(metrics.attempts.clone()))?;
            registry.register(Box::new(metrics.pending.clone()))?;
            registry.register(Box::new(metrics.decision_seconds.clone()))?;
            registry.register(Box::new(metrics.binding_seconds.clone()))?;
        }
        Ok(metrics)
    }

    pub(crate) fn show_pending(&self, [active, backoff, unschedulable]: [usize; 3]) {
        for (queue, count) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable)] {
            self.pending.with_label_values(&[queue]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
