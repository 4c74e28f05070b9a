//! The cells as Prometheus text.

use std::collections::BTreeMap;

use prometheus::{
    Encoder as _, TextEncoder,
    proto::{
        Bucket, Counter as CounterProto, Gauge, Histogram as HistogramProto, LabelPair, Metric, MetricFamily,
        MetricType,
    },
};

use super::{
    Counter, PerWorker, Registry,
    histogram::{BOUNDS, Summed},
};

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
    pub(crate) gauges: Vec<(&'static str, Option<String>, f64)>,
    /// Further counters by name.
    pub(crate) counters: Vec<(&'static str, u64)>,
}

/// Families in the order of their names, as the text format wants them together.
#[derive(Default)]
struct Families(BTreeMap<String, MetricFamily>);

const CLUSTER: &str = "envoy_cluster_name";
const MANAGER: &str = "envoy_http_conn_manager_prefix";
const TCP: &str = "envoy_tcp_prefix";
const LISTENER: &str = "envoy_listener_address";
const CLASS: &str = "envoy_response_code_class";

/// Everything, in the text format of Prometheus.
pub(crate) fn prometheus_text(
    registry: &Registry,
    server: &ServerNumbers,
) -> Result<String, prometheus::Error> {
    let mut families = Families::default();
    clusters(&mut families, registry);
    managers(&mut families, registry);
    others(&mut families, registry);
    server_numbers(&mut families, server);
    let families: Vec<_> = families.0.into_values().collect();
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
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
        counter("rq_timeout", cells.sum(|c| &c.rq_timeout));
        counter("rq_per_try_timeout", cells.sum(|c| &c.rq_per_try_timeout));
        counter("rq_cancelled", cells.sum(|c| &c.rq_cancelled));
        counter("rq_rx_reset", cells.sum(|c| &c.rq_rx_reset));
        counter("rq_pending_overflow", cells.sum(|c| &c.rq_pending_overflow));
        counter("cx_total", cells.sum(|c| &c.cx_total));
        counter("cx_destroy", cells.sum(|c| &c.cx_destroy));
        counter("cx_connect_fail", cells.sum(|c| &c.cx_connect_fail));
        counter("cx_connect_timeout", cells.sum(|c| &c.cx_connect_timeout));
        counter("cx_overflow", cells.sum(|c| &c.cx_overflow));
        counter("cx_none_healthy", cells.sum(|c| &c.cx_none_healthy));
        counter("cx_rx_bytes_total", cells.sum(|c| &c.cx_rx_bytes));
        counter("cx_tx_bytes_total", cells.sum(|c| &c.cx_tx_bytes));
        counter("cx_http1_total", cells.sum(|c| &c.cx_http1_total));
        counter("cx_http2_total", cells.sum(|c| &c.cx_http2_total));
        counter("cx_protocol_error", cells.sum(|c| &c.cx_protocol_error));
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
        counter("downstream_cx_total", cells.sum(|c| &c.cx_total));
        counter("downstream_cx_destroy", cells.sum(|c| &c.cx_destroy));
        counter("downstream_cx_http1_total", cells.sum(|c| &c.cx_http1_total));
        counter("downstream_cx_http2_total", cells.sum(|c| &c.cx_http2_total));
        counter("downstream_cx_protocol_error", cells.sum(|c| &c.cx_protocol_error));
        counter("downstream_cx_idle_timeout", cells.sum(|c| &c.cx_idle_timeout));
        counter("downstream_cx_upgrades_total", cells.sum(|c| &c.cx_upgrades_total));
        counter("downstream_cx_rx_bytes_total", cells.sum(|c| &c.cx_rx_bytes));
        counter("downstream_cx_tx_bytes_total", cells.sum(|c| &c.cx_tx_bytes));
        counter("no_route", cells.sum(|c| &c.no_route));
        counter("no_cluster", cells.sum(|c| &c.no_cluster));
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
        families.histogram(
            "envoy_http_downstream_rq_time",
            &labels,
            &Summed::of(cells.iter().map(|c| &c.rq_time)),
        );
    }
}

fn others(families: &mut Families, registry: &Registry) {
    for (prefix, cells) in registry.tcp_proxies() {
        let labels = [(TCP, prefix.as_str())];
        families.counter("envoy_tcp_downstream_cx_total", &labels, cells.sum(|c| &c.cx_total));
        families.counter("envoy_tcp_downstream_cx_no_route", &labels, cells.sum(|c| &c.cx_no_route));
        families.counter("envoy_tcp_downstream_cx_rx_bytes_total", &labels, cells.sum(|c| &c.cx_rx_bytes));
        families.counter("envoy_tcp_downstream_cx_tx_bytes_total", &labels, cells.sum(|c| &c.cx_tx_bytes));
        families.gauge(
            "envoy_tcp_downstream_cx_active",
            &labels,
            difference(&cells, |c| &c.cx_total, |c| &c.cx_destroy),
        );
    }
    for (address, cells) in registry.listeners() {
        let labels = [(LISTENER, address.as_str())];
        families.counter("envoy_listener_downstream_cx_total", &labels, cells.sum(|c| &c.cx_total));
        families.counter("envoy_listener_downstream_cx_destroy", &labels, cells.sum(|c| &c.cx_destroy));
        families.counter(
            "envoy_listener_downstream_pre_cx_timeout",
            &labels,
            cells.sum(|c| &c.pre_cx_timeout),
        );
        families.counter(
            "envoy_listener_no_filter_chain_match",
            &labels,
            cells.sum(|c| &c.no_filter_chain_match),
        );
        families.gauge(
            "envoy_listener_downstream_cx_active",
            &labels,
            difference(&cells, |c| &c.cx_total, |c| &c.cx_destroy),
        );
    }
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
    for (name, value) in &server.counters {
        families.counter(name, &[], *value);
    }
}

fn difference<T: Default>(
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
    fn counter(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let mut counter = CounterProto::default();
        counter.set_value(value as f64);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.push(name, MetricType::COUNTER, metric);
    }

    fn gauge(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
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
        let buckets = BOUNDS
            .iter()
            .zip(&summed.cumulative)
            .map(|(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(*count);
                bucket
            })
            .collect::<Vec<_>>();
        histogram.set_bucket(buckets);
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
        let text = prometheus_text(&registry, &ServerNumbers { live: true, ..ServerNumbers::default() })
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
