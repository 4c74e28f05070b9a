//! What the server counts, under the names that dashboards for kube-apiserver use.

use std::time::Duration;

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use weft_api::registry::Resource;

/// The server's metrics and the registry that they, and those of everything else in the process, are in.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    watches: IntGaugeVec,
    objects: GaugeVec,
    pub(crate) in_flight: IntGauge,
}

/// Counts a watch for as long as it lives.
#[derive(Debug)]
pub(crate) struct WatchGuard(IntGauge);

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("apiserver_request_total", "Requests by verb, resource and HTTP code"),
            &["verb", "group", "resource", "subresource", "code"],
        )?;
        let buckets = vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let duration = HistogramVec::new(
            HistogramOpts::new("apiserver_request_duration_seconds", "Time to answer, watches excluded")
                .buckets(buckets),
            &["verb", "resource"],
        )?;
        let watches = IntGaugeVec::new(
            Opts::new("apiserver_longrunning_requests", "Watches that run now"),
            &["group", "resource"],
        )?;
        let objects = GaugeVec::new(Opts::new("apiserver_storage_objects", "Stored objects"), &["resource"])?;
        let in_flight =
            IntGauge::new("apiserver_current_inflight_requests", "Requests that are worked on now")?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(watches.clone()))?;
        registry.register(Box::new(objects.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { registry, requests, duration, watches, objects, in_flight })
    }

    /// Counts an answered request. All labels come from the registry of kinds, never from the client.
    pub(crate) fn answered(
        &self,
        verb: &str,
        resource: &Resource,
        subresource: &str,
        code: u16,
        took: Duration,
    ) {
        let code = code.to_string();
        let labels = [verb, resource.group, resource.plural, subresource, code.as_str()];
        self.requests.with_label_values(&labels).inc();
        if verb != "watch" {
            self.duration.with_label_values(&[verb, resource.plural]).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn watch(&self, resource: &Resource) -> WatchGuard {
        let gauge = self.watches.with_label_values(&[resource.group, resource.plural]);
        gauge.inc();
        WatchGuard(gauge)
    }

    /// Everything in the registry, as Prometheus reads it.
    pub(crate) fn render(&self, counts: impl Iterator<Item = (&'static str, usize)>) -> String {
        for (storage, count) in counts {
            self.objects.with_label_values(&[storage]).set(count as f64);
        }
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot write the metrics");
        }
        text
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
