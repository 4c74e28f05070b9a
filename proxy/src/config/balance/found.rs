//! What both ways to name a policy come to.

use std::sync::Arc;

use weft_xds::pb::google::protobuf::UInt64Value;

use super::PANIC_THRESHOLD;
use crate::{
    balance::{
        Balancing, LoadReports, Localities, Overridable, Policy, SlowStart, SubsetSettings, ZoneAware,
    },
    config::{ConfigError, Path},
};
use weft_xds::pb::envoy::r#type::v3::Percent;

/// A policy with what belongs to it.
pub(super) struct Found {
    pub(super) policy: Policy,
    pub(super) localities: Localities,
    pub(super) slow_start: Option<SlowStart>,
    pub(super) reports: Option<LoadReports>,
    pub(super) subsets: Option<SubsetSettings>,
}

// === impl Found ===

impl Found {
    pub(super) fn new(policy: Policy, localities: Localities) -> Self {
        Self { policy, localities, slow_start: None, reports: None, subsets: None }
    }

    pub(super) fn into_balancing(self) -> Balancing {
        // A hash leads to the same endpoint from everywhere.
        let localities = match self.localities {
            Localities::ByZone(_) if self.policy.is_hash() => Localities::Ignored,
            other => other,
        };
        Balancing {
            policy: self.policy,
            panic_threshold: PANIC_THRESHOLD,
            localities,
            slow_start: self.slow_start,
            reports: self.reports.map(Arc::new),
            subsets: self.subsets.map(Arc::new),
            ignore_new: false,
            overridable: Overridable::default(),
        }
    }
}

/// What both messages of zone-aware routing say.
pub(super) fn zone_aware(
    path: &Path,
    enabled: Option<&Percent>,
    min_cluster_size: Option<&UInt64Value>,
    fail_traffic_on_panic: bool,
) -> Result<Localities, ConfigError> {
    let default = ZoneAware::default();
    let routing_enabled = enabled.map_or(f64::from(default.routing_enabled), |percent| percent.value);
    if !(0.0..=100.0).contains(&routing_enabled) {
        return Err(path.field("routing_enabled").error("must be from 0 to 100"));
    }
    Ok(Localities::ByZone(ZoneAware {
        routing_enabled: routing_enabled.round() as u32,
        min_cluster_size: min_cluster_size.map_or(default.min_cluster_size, |size| size.value),
        fail_traffic_on_panic,
    }))
}
