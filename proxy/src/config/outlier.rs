//! Compiling outlier detection.

use std::time::Duration;

use weft_xds::pb::{envoy::config::cluster::v3::OutlierDetection, google::protobuf::UInt32Value};

use super::{ConfigError, Path, unsupported, value};
use crate::cluster::outlier::{Comparison, Settings};

/// Compiles the settings; defaults are Envoy's.
pub(super) fn compile(path: &Path, message: &OutlierDetection) -> Result<Settings, ConfigError> {
    unsupported!(path, message; monitors, detect_degraded_hosts);
    let number = |value: &Option<UInt32Value>, default| value::number(value.as_ref(), default);
    let percent = |name: &str, value: &Option<UInt32Value>, default| match number(value, default) {
        percent @ 0..=100 => Ok(percent),
        _ => Err(path.field(name).error("must be at most 100")),
    };
    let base = value::maybe_duration(&path.field("base_ejection_time"), message.base_ejection_time.as_ref())?
        .unwrap_or(Duration::from_secs(30));
    let max = value::maybe_duration(&path.field("max_ejection_time"), message.max_ejection_time.as_ref())?
        .unwrap_or(Duration::from_secs(300));
    let jitter_path = path.field("max_ejection_time_jitter");
    let jitter = value::maybe_duration(&jitter_path, message.max_ejection_time_jitter.as_ref())?;
    let interval_path = path.field("interval");
    let interval = value::maybe_duration(&interval_path, message.interval.as_ref())?;
    let interval = interval.unwrap_or(Duration::from_secs(10));
    if interval.is_zero() {
        return Err(interval_path.error("must not be zero"));
    }
    Ok(Settings {
        consecutive: [
            number(&message.consecutive_5xx, 5),
            number(&message.consecutive_gateway_failure, 5),
            number(&message.consecutive_local_origin_failure, 5),
        ],
        enforcing: [
            percent("enforcing_consecutive_5xx", &message.enforcing_consecutive_5xx, 100)?,
            percent(
                "enforcing_consecutive_gateway_failure",
                &message.enforcing_consecutive_gateway_failure,
                0,
            )?,
            percent(
                "enforcing_consecutive_local_origin_failure",
                &message.enforcing_consecutive_local_origin_failure,
                100,
            )?,
            percent("enforcing_success_rate", &message.enforcing_success_rate, 100)?,
            percent("enforcing_failure_percentage", &message.enforcing_failure_percentage, 0)?,
            percent(
                "enforcing_local_origin_success_rate",
                &message.enforcing_local_origin_success_rate,
                100,
            )?,
            percent(
                "enforcing_failure_percentage_local_origin",
                &message.enforcing_failure_percentage_local_origin,
                0,
            )?,
        ],
        split: message.split_external_local_origin_errors,
        interval,
        base_ejection: base,
        max_ejection: max.max(base),
        jitter: jitter.unwrap_or_default(),
        max_percent: percent("max_ejection_percent", &message.max_ejection_percent, 10)?,
        success_rate: Comparison {
            hosts: number(&message.success_rate_minimum_hosts, 5) as usize,
            requests: u64::from(number(&message.success_rate_request_volume, 100)),
            threshold: number(&message.success_rate_stdev_factor, 1_900),
        },
        failure_percentage: Comparison {
            hosts: number(&message.failure_percentage_minimum_hosts, 5) as usize,
            requests: u64::from(number(&message.failure_percentage_request_volume, 50)),
            threshold: percent("failure_percentage_threshold", &message.failure_percentage_threshold, 85)?,
        },
    })
}
