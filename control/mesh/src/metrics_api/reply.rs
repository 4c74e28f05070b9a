//! The objects of the metrics APIs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};
use weft_discovery::model::PodId;

use super::{
    path::{CustomVersion, Kind},
    usage::{History, Usage},
};
use crate::load::{Load, WINDOW};

const METRICS: &str = "metrics.k8s.io/v1beta1";

/// The metrics that load reports give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metric {
    RequestsPerSecond,
    InFlight,
    Latency,
}

pub(super) fn list(kind: &str, api_version: &str, items: Vec<Value>) -> Value {
    json!({ "kind": kind, "apiVersion": api_version, "metadata": {}, "items": items })
}

pub(super) fn node_list(items: Vec<Value>) -> Value {
    list("NodeMetricsList", METRICS, items)
}

pub(super) fn pod_list(items: Vec<Value>) -> Value {
    list("PodMetricsList", METRICS, items)
}

/// `None` while there is no rate.
pub(super) fn node(
    name: &str,
    labels: Option<&BTreeMap<String, String>>,
    history: &History,
) -> Option<Value> {
    Some(json!({
        "kind": "NodeMetrics",
        "apiVersion": METRICS,
        "metadata": { "name": name, "creationTimestamp": seconds(history.time()), "labels": labels },
        "timestamp": seconds(history.time()),
        "window": window(history),
        "usage": usage(history.node()?),
    }))
}

/// `None` while there is no rate for any of its containers.
pub(super) fn pod(id: &PodId, labels: Option<&BTreeMap<String, String>>, history: &History) -> Option<Value> {
    let containers = history.pod(id);
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<Value> =
        containers.into_iter().map(|(name, used)| json!({ "name": name, "usage": usage(used) })).collect();
    Some(json!({
        "kind": "PodMetrics",
        "apiVersion": METRICS,
        "metadata": {
            "name": id.name,
            "namespace": id.namespace,
            "creationTimestamp": seconds(history.time()),
            "labels": labels,
        },
        "timestamp": seconds(history.time()),
        "window": window(history),
        "containers": containers,
    }))
}

/// One value of a metric of the load.
pub(super) fn value(
    version: CustomVersion,
    kind: Kind,
    (namespace, name): (&str, &str),
    metric: Metric,
    load: Load,
    now: Timestamp,
) -> Value {
    let kind = match kind {
        Kind::Pod => "Pod",
        Kind::Service => "Service",
    };
    let mut value = json!({
        "describedObject": { "kind": kind, "namespace": namespace, "name": name, "apiVersion": "/v1" },
        "timestamp": seconds(now),
        "windowSeconds": WINDOW.as_secs(),
        "value": metric.quantity(load),
    });
    match version {
        CustomVersion::V1Beta1 => value["metricName"] = metric.name().into(),
        CustomVersion::V1Beta2 => value["metric"] = json!({ "name": metric.name(), "selector": null }),
    }
    value
}

pub(super) fn value_list(version: CustomVersion, items: Vec<Value>) -> Value {
    let api_version = match version {
        CustomVersion::V1Beta1 => "custom.metrics.k8s.io/v1beta1",
        CustomVersion::V1Beta2 => "custom.metrics.k8s.io/v1beta2",
    };
    list("MetricValueList", api_version, items)
}

fn usage(usage: Usage) -> Value {
    // As metrics-server: nanocores and Ki.
    json!({ "cpu": format!("{:.0}n", usage.cpu * 1e9), "memory": format!("{}Ki", usage.memory.div_ceil(1024)) })
}

fn window(history: &History) -> String {
    format!("{:.3}s", history.window().as_secs_f64())
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

// === impl Metric ===

impl Metric {
    pub(super) const ALL: [Self; 3] = [Self::RequestsPerSecond, Self::InFlight, Self::Latency];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "weft_requests_per_second",
            Self::InFlight => "weft_in_flight",
            Self::Latency => "weft_latency_milliseconds",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    fn quantity(self, load: Load) -> String {
        let thousandths = match self {
            Self::RequestsPerSecond => load.requests_per_second * 1e3,
            Self::InFlight => return load.in_flight.to_string(),
            Self::Latency => load.mean_latency().as_secs_f64() * 1e6,
        };
        // The canonical form has no `m` where it is not needed.
        match thousandths.round() {
            whole if whole % 1000.0 == 0.0 => format!("{:.0}", whole / 1000.0),
            part => format!("{part:.0}m"),
        }
    }
}
