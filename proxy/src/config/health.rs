//! Compiling active health checks.

use weft_xds::pb::envoy::config::core::v3::{
    HealthCheck as ProtoCheck, RequestMethod, health_check::HealthChecker, health_check::payload::Payload,
};

use super::{ConfigError, Path, unsupported, value};
use crate::cluster::health::{HealthCheck, Probe};

pub(super) fn compile(path: &Path, message: &ProtoCheck) -> Result<HealthCheck, ConfigError> {
    unsupported!(path, message; alt_port, event_logger, event_service, tls_options, transport_socket_match_criteria,
        unhealthy_interval, unhealthy_edge_interval, healthy_edge_interval, no_traffic_healthy_interval);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; event_log_path);
    }
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
                retriable_statuses, codec_client_type, service_name_matcher);
            let method = match RequestMethod::try_from(http.method) {
                Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => "GET",
                Ok(RequestMethod::Head) => "HEAD",
                _ => return Err(path.field("method").error("only GET and HEAD are supported")),
            };
            if !http.path.starts_with('/') || http.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
                return Err(path.field("path").error("must be a path"));
            }
            let statuses = http
                .expected_statuses
                .iter()
                .map(|range| match (u16::try_from(range.start), u16::try_from(range.end)) {
                    (Ok(start), Ok(end)) if start < end => Ok(start..end),
                    _ => Err(path.field("expected_statuses").error("must be a range of statuses")),
                })
                .collect::<Result<Vec<_>, _>>()?;
            Probe::Http { method, path: http.path.clone(), host: http.host.clone(), statuses }
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
        HealthChecker::GrpcHealthCheck(_) => return Err(path.field("grpc_health_check").unsupported()),
        HealthChecker::CustomHealthCheck(_) => return Err(path.field("custom_health_check").unsupported()),
    };
    Ok(HealthCheck {
        timeout: required("timeout", message.timeout.as_ref())?,
        interval: required("interval", message.interval.as_ref())?,
        unhealthy_threshold: value::number(message.unhealthy_threshold.as_ref(), 2).max(1),
        healthy_threshold: value::number(message.healthy_threshold.as_ref(), 2).max(1),
        probe,
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}
