//! Compiling active health checks.

use std::ops::Range;

use weft_xds::{
    any,
    pb::{
        envoy::{
            config::core::v3::{
                HealthCheck as ProtoCheck, RequestMethod, health_check::HealthChecker,
                health_check::payload::Payload,
            },
            extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink,
            r#type::v3::Int64Range,
        },
        google::protobuf::Duration as ProtoDuration,
    },
};

use super::{ConfigError, Path, names::Names, unsupported, value};
use crate::{
    cluster::health::{HealthCheck, events::EventLog, probe::Probe, schedule::Schedule},
    http::h1::parse::is_authority,
};

/// Longest name of a service that is asked for.
const MAX_SERVICE: usize = 127;

pub(super) fn compile(
    path: &Path,
    message: &ProtoCheck,
    names: &mut Names,
) -> Result<HealthCheck, ConfigError> {
    // Without traffic we ask as often as with it: `no_traffic_interval` would only make it less.
    unsupported!(path, message; alt_port, event_service, tls_options, transport_socket_match_criteria,
        no_traffic_healthy_interval);
    let required = |name: &str, value: Option<&weft_xds::pb::google::protobuf::Duration>| {
        let path = path.field(name);
        value::maybe_duration(&path, value)?.filter(|value| !value.is_zero()).ok_or_else(|| path.missing())
    };
    let probe = match message
        .health_checker
        .as_ref()
        .ok_or_else(|| path.field("http_health_check").missing())?
    {
        HealthChecker::HttpHealthCheck(http) => {
            let path = path.field("http_health_check");
            unsupported!(path, http; send, receive, request_headers_to_add, request_headers_to_remove,
                codec_client_type, service_name_matcher);
            let method = match RequestMethod::try_from(http.method) {
                Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => "GET",
                Ok(RequestMethod::Head) => "HEAD",
                _ => return Err(path.field("method").error("only GET and HEAD are supported")),
            };
            if !http.path.starts_with('/') || http.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
                return Err(path.field("path").error("must be a path"));
            }
            let statuses = ranges(&path.field("expected_statuses"), &http.expected_statuses)?;
            let retriable = ranges(&path.field("retriable_statuses"), &http.retriable_statuses)?;
            Probe::Http { method, path: http.path.clone(), host: http.host.clone(), statuses, retriable }
        }
        HealthChecker::TcpHealthCheck(tcp) => {
            let path = path.field("tcp_health_check");
            unsupported!(path, tcp; proxy_protocol_config);
            let bytes =
                |path: &Path, payload: &weft_xds::pb::envoy::config::core::v3::health_check::Payload| {
                    match &payload.payload {
                        Some(Payload::Text(text)) => {
                            from_hex(text).ok_or_else(|| path.field("text").error("must be hexadecimal"))
                        }
                        Some(Payload::Binary(bytes)) => Ok(bytes.clone()),
                        None => Ok(Vec::new()),
                    }
                };
            let send = tcp.send.as_ref().map(|payload| bytes(&path.field("send"), payload)).transpose()?;
            let receive = tcp
                .receive
                .iter()
                .enumerate()
                .map(|(index, payload)| bytes(&path.item("receive", index), payload))
                .collect::<Result<Vec<_>, _>>()?;
            Probe::Tcp { send: send.unwrap_or_default(), receive }
        }
        HealthChecker::GrpcHealthCheck(grpc) => {
            let path = path.field("grpc_health_check");
            unsupported!(path, grpc; initial_metadata);
            if grpc.service_name.len() > MAX_SERVICE {
                return Err(path.field("service_name").error(format!("is longer than {MAX_SERVICE} bytes")));
            }
            if !grpc.authority.is_empty() && !is_authority(grpc.authority.as_bytes()) {
                return Err(path.field("authority").error("must be a host"));
            }
            Probe::Grpc { service: grpc.service_name.clone(), authority: grpc.authority.clone() }
        }
        HealthChecker::CustomHealthCheck(_) => return Err(path.field("custom_health_check").unsupported()),
    };
    Ok(HealthCheck {
        timeout: required("timeout", message.timeout.as_ref())?,
        schedule: schedule(path, message)?,
        unhealthy_threshold: value::number(message.unhealthy_threshold.as_ref(), 2).max(1),
        healthy_threshold: value::number(message.healthy_threshold.as_ref(), 2).max(1),
        probe,
        log: event_log(path, message, names)?,
    })
}

fn event_log(path: &Path, message: &ProtoCheck, names: &mut Names) -> Result<EventLog, ConfigError> {
    let mut log = EventLog {
        outputs: Vec::new(),
        every_failure: message.always_log_health_check_failures,
        every_success: message.always_log_health_check_success,
    };
    #[expect(deprecated, reason = "older configurations still use it")]
    let old = (path.field("event_log_path"), message.event_log_path.clone());
    let mut files = Vec::from_iter(Some(old).filter(|(_, file)| !file.is_empty()));
    for (index, sink) in message.event_logger.iter().enumerate() {
        let path = path.item("event_logger", index).field("typed_config");
        let config = sink.typed_config.as_ref().ok_or_else(|| path.missing())?;
        let message = value::unpacked(&path, any::unpack::<HealthCheckEventFileSink>(config))?;
        files.push((path.field("event_log_path"), message.event_log_path));
    }
    for (path, file) in files {
        if file.is_empty() {
            return Err(path.missing());
        }
        let output = names.log_output(&file);
        log.outputs.push(output.map_err(|error| path.error(format!("cannot open {file:?}: {error}")))?);
    }
    Ok(log)
}

fn schedule(path: &Path, message: &ProtoCheck) -> Result<Schedule, ConfigError> {
    let duration = |name: &str, value: Option<&ProtoDuration>| {
        let value = value::maybe_duration(&path.field(name), value)?;
        Ok::<_, ConfigError>(value.filter(|value| !value.is_zero()))
    };
    let interval =
        duration("interval", message.interval.as_ref())?.ok_or_else(|| path.field("interval").missing())?;
    let unhealthy = duration("unhealthy_interval", message.unhealthy_interval.as_ref())?.unwrap_or(interval);
    Ok(Schedule {
        interval,
        unhealthy,
        unhealthy_edge: duration("unhealthy_edge_interval", message.unhealthy_edge_interval.as_ref())?
            .unwrap_or(unhealthy),
        healthy_edge: duration("healthy_edge_interval", message.healthy_edge_interval.as_ref())?
            .unwrap_or(interval),
        initial_jitter: duration("initial_jitter", message.initial_jitter.as_ref())?.unwrap_or_default(),
        jitter: duration("interval_jitter", message.interval_jitter.as_ref())?.unwrap_or_default(),
        jitter_percent: message.interval_jitter_percent,
    })
}

fn ranges(path: &Path, ranges: &[Int64Range]) -> Result<Vec<Range<u16>>, ConfigError> {
    let range = |range: &Int64Range| match (u16::try_from(range.start), u16::try_from(range.end)) {
        (Ok(start), Ok(end)) if start < end => Ok(start..end),
        _ => Err(path.error("must be a range of statuses")),
    };
    ranges.iter().map(range).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
