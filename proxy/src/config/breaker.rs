//! Compiling circuit breakers.

use weft_xds::pb::{
    envoy::config::{
        cluster::v3::{
            CircuitBreakers,
            circuit_breakers::{Thresholds, thresholds::RetryBudget},
        },
        core::v3::RoutingPriority,
    },
    google::protobuf::UInt32Value,
};

use super::{ConfigError, Path, unsupported, value};
use crate::cluster::breaker::{Limits, RetryLimit};

/// The limits for requests of a priority.
pub(super) fn limits(
    path: &Path,
    message: Option<&CircuitBreakers>,
    priority: RoutingPriority,
) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    let Some(message) = message else { return Ok(limits) };
    unsupported!(path, message; per_host_thresholds);
    for (index, thresholds) in message.thresholds.iter().enumerate() {
        let path = path.item("thresholds", index);
        unsupported!(path, thresholds; max_connection_pools);
        if thresholds.priority == priority as i32 {
            limits.apply(&path, thresholds)?;
        }
    }
    Ok(limits)
}

// === impl Limits ===

impl Limits {
    fn apply(&mut self, path: &Path, thresholds: &Thresholds) -> Result<(), ConfigError> {
        let set = |limit: &mut u64, value: Option<&UInt32Value>| {
            if let Some(value) = value {
                *limit = u64::from(value.value);
            }
        };
        set(&mut self.connections, thresholds.max_connections.as_ref());
        set(&mut self.pending, thresholds.max_pending_requests.as_ref());
        set(&mut self.requests, thresholds.max_requests.as_ref());
        match (&thresholds.retry_budget, &thresholds.max_retries) {
            // As in Envoy the budget goes before the number.
            (Some(config), _) => self.retries = budget(&path.field("retry_budget"), config)?,
            (None, Some(number)) => self.retries = RetryLimit::Number(u64::from(number.value)),
            (None, None) => {}
        }
        Ok(())
    }
}

fn budget(path: &Path, message: &RetryBudget) -> Result<RetryLimit, ConfigError> {
    let percent = message.budget_percent.as_ref().map_or(RetryLimit::PERCENT, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        return Err(path.field("budget_percent").error("must be from 0 to 100"));
    }
    let least = value::number(message.min_retry_concurrency.as_ref(), RetryLimit::LEAST);
    Ok(RetryLimit::Budget { percent, least: u64::from(least) })
}
