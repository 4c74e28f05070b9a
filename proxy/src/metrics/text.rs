//! The cells as Prometheus text.

use std::{borrow::Cow, collections::BTreeMap};

use prometheus::{
    Encoder as _, TextEncoder,
    proto::{
        Bucket, Counter as CounterProto, Gauge, Histogram as HistogramProto, LabelPair, Metric, MetricFamily,
        MetricType,
    },
};

use super::{
    Counter, PerWorker, Registry, TlsCells, connections,
    histogram::{BOUNDS, Summed},
    propagation,
};
use crate::http::exchange::Reason;

/// Numbers about the process as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerNumbers {
    /// Whether it takes traffic.
    pub(crate) live: bool,
    pub(crate) uptime_seconds: u64,
    pub(crate) concurrency: usize,
    /// Resident bytes.
    pub(crate) memory: u64,
    pub(crate) state: u8,
    /// Further gauges by name, each with the cluster that it is about or nothing.
    pub(crate) gauges: Vec<(Cow<'static, str>, Option<String>, f64)>,
    /// Further counters by name.
    pub(crate) counters: Vec<(Cow<'static, str>, u64)>,
    /// Counters of clusters: name, cluster, value.
    pub(crate) cluster_counters: Vec<(&'static str, String, u64)>,
}

/// Families in the order of their names, as the text format wants them together.
#[derive(Default)]
pub(super) struct Families(BTreeMap<String, MetricFamily>);

const CLUSTER: &str = "envoy_cluster_name";
const MANAGER: &str = "envoy_http_conn_manager_prefix";
const CLASS: &str = "envoy_response_code_class";

/// Everything there is.
pub(crate) fn collect(registry: &Registry, server: &ServerNumbers) -> Vec<MetricFamily> {
    let mut families = Families::default();
    clusters(&mut families, registry);
    outliers(&mut families, registry);
    managers(&mut families, registry);
    connections::write(&mut families, registry);
    registry.named.write(&mut families);
    propagated(&mut families, &registry.propagation.read());
    server_numbers(&mut families, server);
    families.0.into_values().collect()
}

/// As the text format of Prometheus.
pub(crate) fn encode(families: &[MetricFamily]) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(families, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn clusters(families: &mut Families, registry: &Registry) {
    for (name, cells) in registry.clusters() {
        let labels = [(CLUSTER, name.as_str())];
        let mut counter = |metric: &str, value: u64| {
            families.counter(&format!("envoy_cluster_upstream_{metric}"), &labels, value)
        };
        counter("rq_total", cells.sum(|c| &c.rq_total));
        counter("rq_completed", cells.sum(|c| &c.rq_completed));
        counter("rq_retry", cells.sum(|c| &c.rq_retry));
        counter("rq_retry_success", cells.sum(|c| &c.rq_retry_success));
        counter("rq_retry_overflow", cells.sum(|c| &c.rq_retry_overflow));
        counter("rq_retry_limit_exceeded", cells.sum(|c| &c.rq_retry_limit_exceeded));
        counter("rq_retry_backoff_exponential", cells.sum(|c| &c.rq_retry_backoff_exponential));
        counter("rq_retry_backoff_ratelimited", cells.sum(|c| &c.rq_retry_backoff_ratelimited));
        counter("internal_redirect_succeeded_total", cells.sum(|c| &c.rq_redirect_succeeded));
        counter("internal_redirect_failed_total", cells.sum(|c| &c.rq_redirect_failed));
        counter("rq_mirror_dropped", cells.sum(|c| &c.rq_mirror_dropped));
        counter("rq_timeout", cells.sum(|c| &c.rq_timeout));
        counter("rq_per_try_timeout", cells.sum(|c| &c.rq_per_try_timeout));
        counter("rq_per_try_idle_timeout", cells.sum(|c| &c.rq_per_try_idle_timeout));
        counter("rq_cancelled", cells.sum(|c| &c.rq_cancelled));
        counter("rq_rx_reset", cells.sum(|c| &c.rq_rx_reset));
        counter("rq_pending_overflow", cells.sum(|c| &c.rq_pending_overflow));
        counter("cx_total", cells.sum(|c| &c.cx_total));
        counter("cx_destroy", cells.sum(|c| &c.cx_destroy));
        counter("cx_connect_fail", cells.sum(|c| &c.cx_connect_fail));
        counter("cx_connect_timeout", cells.sum(|c| &c.cx_connect_timeout));
        counter("cx_connect_attempts_exceeded", cells.sum(|c| &c.cx_connect_attempts_exceeded));
        counter("cx_overflow", cells.sum(|c| &c.cx_overflow));
        counter("cx_none_healthy", cells.sum(|c| &c.cx_none_healthy));
        counter("cx_rx_bytes_total", cells.sum(|c| &c.cx_rx_bytes));
        counter("cx_tx_bytes_total", cells.sum(|c| &c.cx_tx_bytes));
        counter("cx_http1_total", cells.sum(|c| &c.cx_http1_total));
        counter("cx_http2_total", cells.sum(|c| &c.cx_http2_total));
        counter("cx_protocol_error", cells.sum(|c| &c.cx_protocol_error));
        for (metric, value) in [
            ("ok", cells.sum(|c| &c.ratelimit.ok)),
            ("over_limit", cells.sum(|c| &c.ratelimit.over_limit)),
            ("error", cells.sum(|c| &c.ratelimit.error)),
            ("failure_mode_allowed", cells.sum(|c| &c.ratelimit.failure_mode_allowed)),
        ] {
            // As in Envoy: only of clusters whose requests were limited.
            if value > 0 {
                families.counter(&format!("envoy_cluster_ratelimit_{metric}"), &labels, value);
            }
        }
        let mut counter = |metric: &str, value: u64| {
            families.counter(&format!("envoy_cluster_lb_{metric}"), &labels, value)
        };
        counter("healthy_panic", cells.sum(|c| &c.lb_healthy_panic));
        counter("zone_routing_all_directly", cells.sum(|c| &c.lb_zone_routing_all_directly));
        counter("zone_routing_sampled", cells.sum(|c| &c.lb_zone_routing_sampled));
        counter("zone_routing_cross_zone", cells.sum(|c| &c.lb_zone_routing_cross_zone));
        counter("zone_no_capacity_left", cells.sum(|c| &c.lb_zone_no_capacity_left));
        counter("subsets_selected", cells.sum(|c| &c.lb_subsets_selected));
        counter("subsets_fallback", cells.sum(|c| &c.lb_subsets_fallback));
        counter("subsets_fallback_panic", cells.sum(|c| &c.lb_subsets_fallback_panic));
        tls(families, "envoy_cluster_ssl", &labels, |counter| cells.sum(|c| counter(&c.ssl)));
        families.gauge(
            "envoy_cluster_upstream_cx_active",
            &labels,
            difference(&cells, |c| &c.cx_total, |c| &c.cx_destroy),
        );
        families.gauge(
            "envoy_cluster_upstream_rq_active",
            &labels,
            difference(&cells, |c| &c.rq_total, |c| &c.rq_completed),
        );
        for class in 0..5 {
            let digit = (class + 1).to_string();
            let value = cells.sum(|c| &c.rq_class[class]);
            families.counter("envoy_cluster_upstream_rq_xx", &[(CLASS, &digit), (CLUSTER, &name)], value);
        }
        families.histogram(
            "envoy_cluster_upstream_rq_time",
            &labels,
            &Summed::of(cells.iter().map(|c| &c.rq_time)),
        );
    }
}

fn outliers(families: &mut Families, registry: &Registry) {
    for (name, counts) in registry.outliers() {
        for (metric, value) in counts.read() {
            let metric = format!("envoy_cluster_outlier_detection_{metric}");
            families.counter(&metric, &[(CLUSTER, name.as_str())], value);
        }
    }
}

fn managers(families: &mut Families, registry: &Registry) {
    for (prefix, cells) in registry.http_managers() {
        let labels = [(MANAGER, prefix.as_str())];
        let mut counter =
            |metric: &str, value: u64| families.counter(&format!("envoy_http_{metric}"), &labels, value);
        counter("downstream_rq_total", cells.sum(|c| &c.rq_total));
        counter("downstream_rq_completed", cells.sum(|c| &c.rq_completed));
        counter("downstream_rq_http1_total", cells.sum(|c| &c.rq_http1_total));
        counter("downstream_rq_http2_total", cells.sum(|c| &c.rq_http2_total));
        counter("downstream_rq_timeout", cells.sum(|c| &c.rq_timeout));
        counter("downstream_rq_max_duration_reached", cells.sum(|c| &c.rq_max_duration_reached));
        counter("downstream_cx_total", cells.sum(|c| &c.cx_total));
        counter("downstream_cx_destroy", cells.sum(|c| &c.cx_destroy));
        counter("downstream_cx_http1_total", cells.sum(|c| &c.cx_http1_total));
        counter("downstream_cx_http2_total", cells.sum(|c| &c.cx_http2_total));
        counter("downstream_cx_protocol_error", cells.sum(|c| &c.cx_protocol_error));
        counter("downstream_cx_idle_timeout", cells.sum(|c| &c.cx_idle_timeout));
        counter("downstream_cx_upgrades_total", cells.sum(|c| &c.cx_upgrades_total));
        counter("downstream_cx_overload_disable_keepalive", cells.sum(|c| &c.cx_overload_disable_keepalive));
        counter("downstream_rq_overload_close", cells.sum(|c| &c.rq_overload_close));
        counter("downstream_cx_rx_bytes_total", cells.sum(|c| &c.cx_rx_bytes));
        counter("downstream_cx_tx_bytes_total", cells.sum(|c| &c.cx_tx_bytes));
        counter("no_route", cells.sum(|c| &c.no_route));
        counter("no_cluster", cells.sum(|c| &c.no_cluster));
        let mut passed_on =
            |why: &str, value| counter(&format!("passthrough_internal_redirect_{why}"), value);
        passed_on("bad_location", cells.sum(|c| &c.redirect_bad_location));
        passed_on("unsafe_scheme", cells.sum(|c| &c.redirect_unsafe_scheme));
        passed_on("too_many_redirects", cells.sum(|c| &c.redirect_too_many));
        passed_on("no_route", cells.sum(|c| &c.redirect_no_route));
        passed_on("predicate", cells.sum(|c| &c.redirect_predicate));
        families.gauge(
            "envoy_http_downstream_cx_active",
            &labels,
            difference(&cells, |c| &c.cx_total, |c| &c.cx_destroy),
        );
        families.gauge(
            "envoy_http_downstream_rq_active",
            &labels,
            difference(&cells, |c| &c.rq_total, |c| &c.rq_completed),
        );
        for class in 0..5 {
            let digit = (class + 1).to_string();
            let value = cells.sum(|c| &c.rq_class[class]);
            families.counter("envoy_http_downstream_rq_xx", &[(CLASS, &digit), (MANAGER, &prefix)], value);
        }
        // Only what happened: most reasons never do, and a series for each would drown the others.
        for reason in Reason::ALL.into_iter().filter(|reason| reason.is_error()) {
            let value = cells.sum(|c| c.rq_error.of(reason));
            if value > 0 {
                let labels = [
                    ("reason", reason.details()),
                    ("response_flag", reason.flag()),
                    (MANAGER, prefix.as_str()),
                ];
                families.counter("envoy_http_downstream_rq_error", &labels, value);
            }
        }
        families.histogram(
            "envoy_http_downstream_rq_time",
            &labels,
            &Summed::of(cells.iter().map(|c| &c.rq_time)),
        );
    }
}

/// One counter of a TLS context, wherever its cells are.
type TlsCell = fn(&TlsCells) -> &Counter;

pub(super) fn tls(
    families: &mut Families,
    prefix: &str,
    labels: &[(&str, &str)],
    sum: impl Fn(TlsCell) -> u64,
) {
    let counters: [(&str, TlsCell); 8] = [
        ("handshake", |c| &c.handshake),
        ("connection_error", |c| &c.connection_error),
        ("session_reused", |c| &c.session_reused),
        ("no_certificate", |c| &c.no_certificate),
        ("fail_verify_no_cert", |c| &c.fail_verify_no_cert),
        ("fail_verify_error", |c| &c.fail_verify_error),
        ("fail_verify_san", |c| &c.fail_verify_san),
        ("fail_verify_cert_hash", |c| &c.fail_verify_cert_hash),
    ];
    for (name, counter) in counters {
        families.counter(&format!("{prefix}_{name}"), labels, sum(counter));
    }
}

fn propagated(families: &mut Families, counts: &propagation::Counts) {
    let mut histogram = HistogramProto::default();
    histogram.set_sample_count(counts.count);
    histogram.set_sample_sum(counts.sum.as_secs_f64());
    histogram.set_bucket(buckets(&propagation::BOUNDS, &counts.cumulative));
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    families.push("weft_xds_propagation_seconds", MetricType::HISTOGRAM, metric);
}

fn buckets(bounds: &[f64], cumulative: &[u64]) -> Vec<Bucket> {
    let bucket = |(bound, count): (&f64, &u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*count);
        bucket
    };
    bounds.iter().zip(cumulative).map(bucket).collect()
}

fn server_numbers(families: &mut Families, server: &ServerNumbers) {
    families.gauge("envoy_server_live", &[], f64::from(u8::from(server.live)));
    families.gauge("envoy_server_state", &[], f64::from(server.state));
    families.gauge("envoy_server_uptime", &[], server.uptime_seconds as f64);
    families.gauge("envoy_server_concurrency", &[], server.concurrency as f64);
    families.gauge("envoy_server_memory_allocated", &[], server.memory as f64);
    families.gauge("envoy_server_memory_physical_size", &[], server.memory as f64);
    for (name, cluster, value) in &server.gauges {
        match cluster {
            Some(cluster) => families.gauge(name, &[(CLUSTER, cluster)], *value),
            None => families.gauge(name, &[], *value),
        }
    }
    for (name, cluster, value) in &server.cluster_counters {
        families.counter(name, &[(CLUSTER, cluster)], *value);
    }
    for (name, value) in &server.counters {
        families.counter(name, &[], *value);
    }
}

pub(super) fn difference<T: Default>(
    cells: &PerWorker<T>,
    up: impl Fn(&T) -> &Counter,
    down: impl Fn(&T) -> &Counter,
) -> f64 {
    // The lower one first: a connection that ends in between must not make the number negative.
    let down = cells.sum(down);
    cells.sum(up).saturating_sub(down) as f64
}

// === impl Families ===

impl Families {
    pub(super) fn counter(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let mut counter = CounterProto::default();
        counter.set_value(value as f64);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.push(name, MetricType::COUNTER, metric);
    }

    pub(super) fn gauge(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.push(name, MetricType::GAUGE, metric);
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], summed: &Summed) {
        let mut histogram = HistogramProto::default();
        histogram.set_sample_count(summed.count);
        histogram.set_sample_sum(summed.sum_millis);
        histogram.set_bucket(buckets(&BOUNDS, &summed.cumulative));
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.push(name, MetricType::HISTOGRAM, metric);
    }

    fn push(&mut self, name: &str, kind: MetricType, metric: Metric) {
        let family = self.0.entry(name.to_owned()).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(String::new());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let mut metric = Metric::default();
    let pairs = labels
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect::<Vec<_>>();
    metric.set_label(pairs);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_envoy() {
        let registry = Registry::new(2);
        let cluster = registry.cluster("web.default:80");
        cluster.at(0).rq_total.add(2);
        cluster.at(1).rq_total.add(3);
        cluster.at(1).rq_class[1].add(4);
        cluster.at(0).rq_time.record(std::time::Duration::from_millis(2));
        let text = encode(&collect(&registry, &ServerNumbers { live: true, ..ServerNumbers::default() }))
            .expect("encodes");
        for line in [
            "# TYPE envoy_cluster_upstream_rq_total counter",
            "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"web.default:80\"} 5",
            "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"web.default:80\"} 4",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"web.default:80\",le=\"5\"} 1",
            "envoy_server_live 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn cells_of_what_is_gone_are_forgotten() {
        let registry = Registry::new(1);
        let kept = registry.cluster("kept");
        drop(registry.cluster("gone"));
        registry.forget_unused();
        assert_eq!(registry.clusters().len(), 1);
        drop(kept);
    }
}
