//! Compiling retry policies.

use std::{sync::Arc, time::Duration};

use weft_xds::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy as ProtoRetry,
    retry_policy::{RateLimitedRetryBackOff, ResetHeaderFormat, RetryBackOff},
};

use super::{ConfigError, Path, matcher, unsupported, value};
use crate::route::{
    backoff::{BackOff, RateLimited, ResetField, ResetFormat},
    matcher::HeaderMatch,
    retry::{RetryOn, RetryPolicy},
};

/// Envoy's.
const BASE: Duration = Duration::from_millis(25);
/// Envoy's longest wait that an upstream may ask for.
const LONGEST_RESET: Duration = Duration::from_secs(300);

pub(super) fn compile(path: &Path, message: &ProtoRetry) -> Result<Arc<RetryPolicy>, ConfigError> {
    // `host_selection_retry_max_attempts` says how often to draw until a host is new; ours is new if there is one.
    unsupported!(path, message; retry_priority, retry_options_predicates, refresh_cluster_on_retry);
    for (index, predicate) in message.retry_host_predicate.iter().enumerate() {
        // A retry avoids the endpoints that failed whether asked to or not.
        if predicate.name != "envoy.retry_host_predicates.previous_hosts" {
            return Err(path.item("retry_host_predicate", index).unsupported());
        }
    }
    let on = RetryOn::parse(&message.retry_on)
        .map_err(|word| path.field("retry_on").error(format!("condition {word:?} is not supported")))?;
    let statuses = message
        .retriable_status_codes
        .iter()
        .map(|status| {
            u16::try_from(*status).map_err(|_| path.field("retriable_status_codes").error("is not a status"))
        })
        .collect::<Result<_, _>>()?;
    let limit = |name: &str, value| value::limit(&path.field(name), value, None);
    Ok(Arc::new(RetryPolicy {
        on,
        retries: value::number(message.num_retries.as_ref(), 1),
        per_try_timeout: limit("per_try_timeout", message.per_try_timeout.as_ref())?,
        per_try_idle_timeout: limit("per_try_idle_timeout", message.per_try_idle_timeout.as_ref())?,
        statuses,
        response_fields: fields(path, "retriable_headers", &message.retriable_headers)?,
        request_fields: fields(path, "retriable_request_headers", &message.retriable_request_headers)?,
        back_off: back_off(&path.field("retry_back_off"), message.retry_back_off.as_ref())?,
        rate_limited: message
            .rate_limited_retry_back_off
            .as_ref()
            .map(|config| rate_limited(&path.field("rate_limited_retry_back_off"), config))
            .transpose()?,
    }))
}

fn fields(path: &Path, name: &str, matchers: &[HeaderMatcher]) -> Result<Vec<HeaderMatch>, ConfigError> {
    let matchers = matchers.iter().enumerate();
    matchers.map(|(index, matcher)| matcher::header(&path.item(name, index), matcher)).collect()
}

fn back_off(path: &Path, message: Option<&RetryBackOff>) -> Result<BackOff, ConfigError> {
    let Some(message) = message else { return Ok(BackOff { base: BASE, max: BASE * 10 }) };
    let base_path = path.field("base_interval");
    let base = value::maybe_duration(&base_path, message.base_interval.as_ref())?
        .filter(|base| !base.is_zero())
        .ok_or_else(|| base_path.missing())?;
    let max_path = path.field("max_interval");
    let max = value::maybe_duration(&max_path, message.max_interval.as_ref())?;
    let max = max.unwrap_or(base.saturating_mul(10));
    if max < base {
        return Err(max_path.error("must not be below base_interval"));
    }
    Ok(BackOff { base, max })
}

fn rate_limited(path: &Path, message: &RateLimitedRetryBackOff) -> Result<RateLimited, ConfigError> {
    if message.reset_headers.is_empty() {
        return Err(path.field("reset_headers").missing());
    }
    let mut fields = Vec::with_capacity(message.reset_headers.len());
    for (index, field) in message.reset_headers.iter().enumerate() {
        let path = path.item("reset_headers", index);
        if field.name.is_empty() {
            return Err(path.field("name").missing());
        }
        let format = match ResetHeaderFormat::try_from(field.format) {
            Ok(ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
            Ok(ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
            Err(_) => return Err(path.field("format").error("is not a known value")),
        };
        fields.push(ResetField { name: field.name.to_ascii_lowercase().into_bytes(), format });
    }
    let max = value::maybe_duration(&path.field("max_interval"), message.max_interval.as_ref())?;
    Ok(RateLimited { fields, max: max.unwrap_or(LONGEST_RESET) })
}
