//! The metrics APIs of Kubernetes, to be served under the API server's address.
//!
//! * `metrics.k8s.io/v1beta1`: CPU and memory of nodes and pods, for `kubectl top` and autoscalers; from each node's
//!   `/metrics/resource`.
//! * `custom.metrics.k8s.io/v1beta1` and `v1beta2`: requests per second, requests in flight and latency of pods and
//!   services, for autoscalers; from the proxies' load reports.

mod custom;
mod exposition;
mod path;
mod reply;
mod scrape;
mod service;
mod usage;

pub use self::{
    scrape::{Scraper, UsageStore},
    service::{AggregatedApi, ApiResource, MetricsService, apis},
};
