//! Compiling `AdmissionControl`.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_xds::{
    any,
    pb::envoy::{
        config::core::v3::RuntimePercent,
        extensions::filters::http::admission_control::v3::{
            AdmissionControl as Proto,
            admission_control::{EvaluationCriteria, SuccessCriteria},
        },
    },
};

use super::{AdmissionControl, COUNTERS, Rule, Shared, Success, Window};
use crate::{
    config::{ConfigError, Path, value},
    filter::{Inputs, Kind},
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(compile(path, &message, inputs)?))
    },
    of_route: None,
};

const WINDOW: Duration = Duration::from_secs(30);
const THRESHOLD: f64 = 95.0;
const MOST: f64 = 80.0;

/// Statuses that are no failure of the service where nothing else is said.
const NO_SERVER_ERROR: Range<u16> = 0..500;

/// The same of gRPC where nothing else is said: OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, NOT_FOUND,
/// ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED.
const GRPC: [u32; 10] = [0, 1, 2, 3, 5, 6, 9, 11, 12, 16];

fn compile(path: &Path, message: &Proto, inputs: &Inputs<'_>) -> Result<AdmissionControl, ConfigError> {
    let criteria = path.field("success_criteria");
    let success = match message.evaluation_criteria.as_ref().ok_or_else(|| criteria.missing())? {
        EvaluationCriteria::SuccessCriteria(message) => success(&criteria, message)?,
    };
    let window_path = path.field("sampling_window");
    let window = value::maybe_duration(&window_path, message.sampling_window.as_ref())?.unwrap_or(WINDOW);
    if window < Duration::from_secs(1) {
        return Err(window_path.error("must be at least 1s"));
    }
    let threshold = percent(&path.field("sr_threshold"), message.sr_threshold.as_ref(), THRESHOLD)?;
    if threshold < 0.01 {
        return Err(path.field("sr_threshold").error("must be at least 1%"));
    }
    let aggression = message.aggression.as_ref().map_or(1.0, |aggression| aggression.default_value);
    let stats = inputs.counters(&COUNTERS);
    Ok(AdmissionControl {
        enabled: value::flag(message.enabled.as_ref()),
        rule: Rule {
            threshold,
            // As Envoy: what is less is 1.
            aggression: aggression.max(1.0),
            rps: message.rps_threshold.as_ref().map_or(0, |rps| u64::from(rps.default_value)),
            most: percent(
                &path.field("max_rejection_probability"),
                message.max_rejection_probability.as_ref(),
                MOST,
            )?,
        },
        shared: Arc::new(Shared {
            window: Window::new(window.as_secs()),
            start: Instant::now(),
            success,
            stats: Arc::clone(&stats),
        }),
        stats,
    })
}

/// A share; the key changes nothing.
fn percent(path: &Path, value: Option<&RuntimePercent>, default: f64) -> Result<f64, ConfigError> {
    let value = value.and_then(|value| value.default_value.as_ref()).map_or(default, |value| value.value);
    if (0.0..=100.0).contains(&value) { Ok(value / 100.0) } else { Err(path.error("must be from 0 to 100")) }
}

fn success(path: &Path, message: &SuccessCriteria) -> Result<Success, ConfigError> {
    let http = match &message.http_criteria {
        None => vec![NO_SERVER_ERROR],
        Some(criteria) => {
            let path = path.field("http_criteria");
            let ranges = criteria.http_success_status.iter().enumerate();
            let ranges = ranges
                .map(|(index, status)| {
                    range(&path.item("http_success_status", index), status.start, status.end)
                })
                .collect::<Result<Vec<_>, _>>()?;
            if ranges.is_empty() {
                return Err(path.field("http_success_status").missing());
            }
            ranges
        }
    };
    let grpc = match &message.grpc_criteria {
        None => GRPC.to_vec(),
        Some(criteria) => {
            let path = path.field("grpc_criteria");
            if criteria.grpc_success_status.is_empty() {
                return Err(path.field("grpc_success_status").missing());
            }
            if let Some(index) = criteria.grpc_success_status.iter().position(|status| *status > 16) {
                return Err(path.item("grpc_success_status", index).error("is no status of gRPC"));
            }
            criteria.grpc_success_status.clone()
        }
    };
    Ok(Success { http, grpc })
}

/// Statuses from one to before another.
fn range(path: &Path, start: i32, end: i32) -> Result<Range<u16>, ConfigError> {
    match (u16::try_from(start), u16::try_from(end)) {
        (Ok(start), Ok(end)) if start < end && start >= 100 && end <= 600 => Ok(start..end),
        _ => Err(path.error("is no range of statuses")),
    }
}
