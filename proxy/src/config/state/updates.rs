//! How many updates of the configuration there were.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use weft_xds::ResourceType;

/// How many updates there were, from servers and from files.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    by_type: BTreeMap<ResourceType, Count>,
    pub(crate) connected: bool,
    /// What was waited for in vain, and done without.
    pub(crate) fetch_timeouts: u64,
    /// Requests to servers that had to wait, as there were too many of them.
    pub(crate) requests_delayed: Arc<AtomicU64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    accepted: u64,
    rejected: u64,
}

/// Types for which Envoy has counters of the process. Those of the others are of clusters and routes, which come and go.
const NAMED: [(ResourceType, &str); 3] = [
    (ResourceType::Cluster, "envoy_cluster_manager_cds"),
    (ResourceType::Listener, "envoy_listener_manager_lds"),
    (ResourceType::Runtime, "envoy_runtime"),
];

// === impl Updates ===

impl Updates {
    pub(crate) fn accepted(&mut self, type_: ResourceType) {
        self.by_type.entry(type_).or_default().accepted += 1;
    }

    /// Some or all of it was.
    pub(crate) fn rejected(&mut self, type_: ResourceType) {
        self.by_type.entry(type_).or_default().rejected += 1;
    }

    /// Name and value of each counter.
    pub(crate) fn counters(&self) -> Vec<(Cow<'static, str>, u64)> {
        let sum = |value: fn(&Count) -> u64| self.by_type.values().map(value).sum();
        let mut counters = vec![
            ("envoy_xds_update_success".into(), sum(|count| count.accepted)),
            ("envoy_xds_update_rejected".into(), sum(|count| count.rejected)),
            ("envoy_xds_init_fetch_timeout".into(), self.fetch_timeouts),
            ("envoy_control_plane_rate_limit_enforced".into(), self.requests_delayed.load(Ordering::Relaxed)),
        ];
        for (type_, prefix) in NAMED {
            let count = self.by_type.get(&type_).copied().unwrap_or_default();
            counters.push((format!("{prefix}_update_success").into(), count.accepted));
            counters.push((format!("{prefix}_update_rejected").into(), count.rejected));
        }
        counters
    }
}
