//! Compiling `AdaptiveConcurrency`.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_xds::{
    any,
    pb::{
        envoy::{
            extensions::filters::http::adaptive_concurrency::v3::{
                AdaptiveConcurrency as Proto, GradientControllerConfig,
                adaptive_concurrency::ConcurrencyControllerConfig,
            },
            r#type::v3::Percent,
        },
        google::protobuf::{Duration as ProtoDuration, UInt32Value},
    },
};

use super::{
    AdaptiveConcurrency, COUNTERS, GAUGES, LIMIT, MEASURING, Shared,
    gradient::{Controller, Settings},
};
use crate::{
    config::{ConfigError, Path, unsupported, value},
    filter::{Inputs, Kind},
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(compile(path, &message, inputs)?))
    },
    of_route: None,
};

const PERCENTILE: f64 = 50.0;
const MAX_LIMIT: u32 = 1000;
const JITTER: f64 = 15.0;
const REQUESTS: u32 = 50;
const MIN_CONCURRENCY: u32 = 3;
const BUFFER: f64 = 25.0;

fn compile(path: &Path, message: &Proto, inputs: &Inputs<'_>) -> Result<AdaptiveConcurrency, ConfigError> {
    let gradient = path.field("gradient_controller_config");
    let controller = message.concurrency_controller_config.as_ref().ok_or_else(|| gradient.missing())?;
    let ConcurrencyControllerConfig::GradientControllerConfig(controller) = controller;
    let settings = settings(&gradient, controller)?;
    let status = message.concurrency_limit_exceeded_status.as_ref().map_or(0, |status| status.code);
    let gauges = inputs.gauges(&GAUGES);
    gauges.set(LIMIT, f64::from(settings.min_concurrency));
    gauges.set(MEASURING, 1.0);
    Ok(AdaptiveConcurrency {
        enabled: value::flag(message.enabled.as_ref()),
        // As Envoy: what is no error does not tell anybody to come back later.
        status: u16::try_from(status).ok().filter(|status| (400..600).contains(status)).unwrap_or(503),
        shared: Arc::new(Shared { controller: Controller::new(settings), start: Instant::now(), gauges }),
        stats: inputs.counters(&COUNTERS),
    })
}

fn settings(path: &Path, message: &GradientControllerConfig) -> Result<Settings, ConfigError> {
    let limit_path = path.field("concurrency_limit_params");
    let limit = message.concurrency_limit_params.as_ref().ok_or_else(|| limit_path.missing())?;
    unsupported!(limit_path, limit; min_concurrency_limit);
    let rtt_path = path.field("min_rtt_calc_params");
    let rtt = message.min_rtt_calc_params.as_ref().ok_or_else(|| rtt_path.missing())?;
    unsupported!(rtt_path, rtt; fixed_value);
    let percentile =
        percent(&path.field("sample_aggregate_percentile"), message.sample_aggregate_percentile, PERCENTILE)?;
    Ok(Settings {
        percentile,
        max_limit: at_least_one(
            &limit_path,
            "max_concurrency_limit",
            limit.max_concurrency_limit,
            MAX_LIMIT,
        )?,
        update_interval: interval(
            &limit_path.field("concurrency_update_interval"),
            limit.concurrency_update_interval.as_ref(),
        )?,
        min_rtt_interval: interval(&rtt_path.field("interval"), rtt.interval.as_ref())?,
        jitter: percent(&rtt_path.field("jitter"), rtt.jitter, JITTER)?,
        min_rtt_requests: at_least_one(&rtt_path, "request_count", rtt.request_count, REQUESTS)?,
        min_concurrency: at_least_one(&rtt_path, "min_concurrency", rtt.min_concurrency, MIN_CONCURRENCY)?,
        buffer: percent(&rtt_path.field("buffer"), rtt.buffer, BUFFER)?,
    })
}

/// Microseconds.
fn interval(path: &Path, message: Option<&ProtoDuration>) -> Result<u64, ConfigError> {
    let interval = value::duration(path, message.ok_or_else(|| path.missing())?)?;
    if interval < Duration::from_millis(1) {
        return Err(path.error("must be at least 1ms"));
    }
    u64::try_from(interval.as_micros()).map_err(|_| path.error("is too long"))
}

fn percent(path: &Path, message: Option<Percent>, default: f64) -> Result<f64, ConfigError> {
    let value = message.map_or(default, |percent| percent.value);
    if (0.0..=100.0).contains(&value) { Ok(value / 100.0) } else { Err(path.error("must be from 0 to 100")) }
}

fn at_least_one(
    path: &Path,
    name: &str,
    message: Option<UInt32Value>,
    default: u32,
) -> Result<u32, ConfigError> {
    match value::number(message.as_ref(), default) {
        0 => Err(path.field(name).error("must be at least 1")),
        number => Ok(number),
    }
}
