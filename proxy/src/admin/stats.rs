//! Counters, in Envoy's three forms.

use std::fmt::Write as _;

use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType};
use regex::Regex;
use serde_json::{Value, json};

/// Which numbers are shown.
pub(super) struct Selection {
    /// Must match somewhere in the name that the text form has.
    pub(super) filter: Option<Regex>,
    pub(super) used_only: bool,
}

const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// The labels that Envoy's names carry inside, after which part of the name they come.
const TAGS: &[(&str, &str, &str)] = &[
    ("cluster_", "envoy_cluster_name", "cluster"),
    ("http_", "envoy_http_conn_manager_prefix", "http"),
    ("tcp_", "envoy_tcp_prefix", "tcp"),
    ("listener_", "envoy_listener_address", "listener"),
];
/// Beginnings that stand alone.
const ROOTS: &[&str] =
    &["server", "cluster_manager", "listener_manager", "control_plane", "access_log_file", "overload", "xds"];

/// Leaves out what is not asked for.
pub(super) fn select(families: Vec<MetricFamily>, selection: &Selection) -> Vec<MetricFamily> {
    families
        .into_iter()
        .filter_map(|mut family| {
            let name = family.name().to_owned();
            let kept: Vec<Metric> = family
                .take_metric()
                .into_iter()
                .filter(|metric| !selection.used_only || is_used(metric))
                .filter(|metric| {
                    let shown = || envoy_name(&name, metric);
                    selection.filter.as_ref().is_none_or(|filter| filter.is_match(&shown()))
                })
                .collect();
            family.set_metric(kept);
            (!family.get_metric().is_empty()).then_some(family)
        })
        .collect()
}

/// One line each, sorted by name.
pub(super) fn text(families: &[MetricFamily]) -> String {
    let mut lines = Vec::new();
    for (name, kind, metric) in all(families) {
        lines.push(match kind {
            MetricType::HISTOGRAM => format!("{name}: {}", summary(metric.get_histogram())),
            kind => format!("{name}: {}", number(metric, kind)),
        });
    }
    lines.sort();
    lines.into_iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    })
}

pub(super) fn as_json(families: &[MetricFamily]) -> Value {
    let mut stats = Vec::new();
    let mut computed = Vec::new();
    for (name, kind, metric) in all(families) {
        if kind == MetricType::HISTOGRAM {
            let values: Vec<Value> = QUANTILES
                .iter()
                .map(
                    |quantile| json!({"interval": null, "cumulative": at(metric.get_histogram(), *quantile)}),
                )
                .collect();
            computed.push(json!({"name": name, "values": values}));
        } else {
            stats.push(json!({"name": name, "value": number(metric, kind)}));
        }
    }
    if !computed.is_empty() {
        let histograms = json!({"supported_quantiles": QUANTILES, "computed_quantiles": computed});
        stats.push(json!({ "histograms": histograms }));
    }
    json!({ "stats": stats })
}

fn all(families: &[MetricFamily]) -> impl Iterator<Item = (String, MetricType, &Metric)> {
    families.iter().flat_map(|family| {
        let kind = family.get_field_type();
        family.get_metric().iter().map(move |metric| (envoy_name(family.name(), metric), kind, metric))
    })
}

fn is_used(metric: &Metric) -> bool {
    metric.get_counter().get_value() != 0.0
        || metric.get_gauge().get_value() != 0.0
        || metric.get_histogram().get_sample_count() != 0
}

fn number(metric: &Metric, kind: MetricType) -> u64 {
    if kind == MetricType::GAUGE {
        metric.get_gauge().get_value() as u64
    } else {
        metric.get_counter().get_value() as u64
    }
}

/// The name with its labels back inside: `cluster.up.upstream_rq_2xx`.
fn envoy_name(name: &str, metric: &Metric) -> String {
    let name = name.strip_prefix("envoy_").unwrap_or(name);
    let label = |wanted: &str| {
        metric.get_label().iter().find(|label| label.name() == wanted).map(|label| label.value())
    };
    let (head, rest) = match TAGS
        .iter()
        .find_map(|(start, tag, root)| Some((format!("{root}.{}", label(tag)?), name.strip_prefix(start)?)))
    {
        Some(found) => found,
        None => ROOTS
            .iter()
            .find_map(|root| Some(((*root).to_owned(), name.strip_prefix(root)?.strip_prefix('_')?)))
            .unwrap_or((String::new(), name)),
    };
    let rest = match label("envoy_response_code_class") {
        Some(class) => rest.replace("_xx", &format!("_{class}xx")),
        None => rest.to_owned(),
    };
    let mut text = if head.is_empty() { rest } else { format!("{head}.{rest}") };
    // Labels that Envoy does not have follow as they are.
    for label in metric.get_label() {
        if !label.name().starts_with("envoy_") {
            let _ = write!(text, ".{}", label.value());
        }
    }
    text
}

fn summary(histogram: &Histogram) -> String {
    if histogram.get_sample_count() == 0 {
        return "No recorded values".to_owned();
    }
    QUANTILES.iter().fold(String::new(), |mut text, quantile| {
        let separator = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{separator}P{quantile}(nan,{})", at(histogram, *quantile).unwrap_or_default());
        text
    })
}

/// The value that so many per cent are below, as far as the buckets tell: in between it is a straight line.
fn at(histogram: &Histogram, quantile: f64) -> Option<f64> {
    let total = histogram.get_sample_count();
    if total == 0 {
        return None;
    }
    let wanted = quantile / 100.0 * total as f64;
    let (mut below, mut lower) = (0u64, 0.0);
    for bucket in histogram.get_bucket() {
        let (count, upper) = (bucket.cumulative_count(), bucket.upper_bound());
        if count as f64 >= wanted && count > below {
            let share = (wanted - below as f64).max(0.0) / (count - below) as f64;
            return Some(lower + (upper - lower) * share);
        }
        (below, lower) = (count, upper);
    }
    Some(lower)
}
