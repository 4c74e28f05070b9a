//! Compiling `RateLimit`.

use std::{sync::Arc, time::Duration};

use weft_xds::{
    any,
    pb::envoy::{
        extensions::filters::http::ratelimit::v3::{
            RateLimit as Proto, RateLimitPerRoute,
            rate_limit::XRateLimitHeadersRfcVersion,
            rate_limit_per_route::{OverrideOptions, VhRateLimitsOptions},
        },
        r#type::v3::HttpStatus,
    },
};

use super::{GlobalRateLimit, Origin, OwnLimits};
use crate::{
    config::{ConfigError, Path, rate_limit, service, unsupported, value},
    filter::{Inputs, Kind},
    route::rate_limit::HostLimits,
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(compile(path, &message, inputs)?))
    },
    of_route: Some(("envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<RateLimitPerRoute>(config))?;
        Ok(Arc::new(own(path, &message)?))
    })),
};

/// How long the service is asked where nothing is configured.
const TIMEOUT: Duration = Duration::from_millis(20);
const TOO_MANY_REQUESTS: u16 = 429;
const INTERNAL_SERVER_ERROR: u16 = 500;
const GRPC_RESOURCE_EXHAUSTED: u8 = 8;
const GRPC_UNAVAILABLE: u8 = 14;
/// Envoy's bounds.
const MAX_STAGE: u32 = 10;
const MAX_FIELDS: usize = 10;

fn compile(path: &Path, message: &Proto, inputs: &mut Inputs<'_>) -> Result<GlobalRateLimit, ConfigError> {
    unsupported!(path, message; stat_prefix, metadata_namespace, enable_retry_after_header);
    if message.domain.is_empty() {
        return Err(path.field("domain").missing());
    }
    if message.stage > MAX_STAGE {
        return Err(path.field("stage").error(format!("must be at most {MAX_STAGE}")));
    }
    if message.response_headers_to_add.len() > MAX_FIELDS {
        let reason = format!("must be at most {MAX_FIELDS}");
        return Err(path.field("response_headers_to_add").error(reason));
    }
    let service_path = path.field("rate_limit_service");
    let config = message.rate_limit_service.as_ref().ok_or_else(|| service_path.missing())?;
    service::api_version(&service_path, config.transport_api_version)?;
    let target = service_path.field("grpc_service");
    let grpc = config.grpc_service.as_ref().ok_or_else(|| target.missing())?;
    let mut service = service::grpc(&target, grpc, TIMEOUT, inputs.names)?;
    // As in Envoy: the filter's own timeout and not the service's.
    service.timeout = value::limit(&path.field("timeout"), message.timeout.as_ref(), Some(TIMEOUT))?;
    let everybody = Some(value::ALL).filter(|_| message.failure_mode_deny).unwrap_or(0);
    Ok(GlobalRateLimit {
        service,
        domain: message.domain.clone(),
        stage: message.stage,
        origin: match message.request_type.as_str() {
            "internal" => Origin::Internal,
            "external" => Origin::External,
            "" | "both" => Origin::Both,
            other => return Err(path.field("request_type").error(format!("{other:?} is not a known value"))),
        },
        rate_limits: rate_limit::compile(path, &message.rate_limits)?,
        enabled: value::runtime_share(
            &path.field("filter_enabled"),
            message.filter_enabled.as_ref(),
            value::ALL,
        )?,
        enforced: value::runtime_share(
            &path.field("filter_enforced"),
            message.filter_enforced.as_ref(),
            value::ALL,
        )?,
        deny_on_failure: value::runtime_share(
            &path.field("failure_mode_deny_percent"),
            message.failure_mode_deny_percent.as_ref(),
            everybody,
        )?,
        status: status(path, "rate_limited_status", message.rate_limited_status, TOO_MANY_REQUESTS)?,
        grpc_status: if message.rate_limited_as_resource_exhausted {
            GRPC_RESOURCE_EXHAUSTED
        } else {
            GRPC_UNAVAILABLE
        },
        status_on_error: status(path, "status_on_error", message.status_on_error, INTERNAL_SERVER_ERROR)?,
        tell_limits: match XRateLimitHeadersRfcVersion::try_from(message.enable_x_ratelimit_headers) {
            Ok(XRateLimitHeadersRfcVersion::Off) => false,
            Ok(XRateLimitHeadersRfcVersion::DraftVersion03) => true,
            Err(_) => return Err(path.field("enable_x_ratelimit_headers").error("is not a known value")),
        },
        tell_limited: !message.disable_x_envoy_ratelimited_header,
        tell_client: value::mutation(path, "response", &message.response_headers_to_add, &[])?.add,
    })
}

/// As Envoy: what is no error of the client or the server is the default.
fn status(path: &Path, name: &str, message: Option<HttpStatus>, default: u16) -> Result<u16, ConfigError> {
    let code = message.map_or(0, |status| u32::try_from(status.code).unwrap_or_default());
    match code {
        0..400 => Ok(default),
        code => value::status(&path.field(name).field("code"), code),
    }
}

fn own(path: &Path, message: &RateLimitPerRoute) -> Result<OwnLimits, ConfigError> {
    let host = path.field("vh_rate_limits");
    let host = match VhRateLimitsOptions::try_from(message.vh_rate_limits) {
        Ok(VhRateLimitsOptions::Override) => HostLimits::Otherwise,
        Ok(VhRateLimitsOptions::Include) => HostLimits::Too,
        Ok(VhRateLimitsOptions::Ignore) => HostLimits::Never,
        Err(_) => return Err(host.error("is not a known value")),
    };
    let option = path.field("override_option");
    let host = match OverrideOptions::try_from(message.override_option) {
        Ok(OverrideOptions::Default) => host,
        Ok(OverrideOptions::OverridePolicy) => HostLimits::Otherwise,
        Ok(OverrideOptions::IncludePolicy) => HostLimits::Too,
        Ok(OverrideOptions::IgnorePolicy) => HostLimits::Never,
        Err(_) => return Err(option.error("is not a known value")),
    };
    Ok(OwnLimits {
        domain: message.domain.clone(),
        rate_limits: rate_limit::compile(path, &message.rate_limits)?,
        host,
    })
}
