//! Compiling HTTP connection managers.

use std::{sync::Arc, time::Duration};

use weft_xds::{
    any,
    pb::envoy::extensions::filters::{
        http::router::v3::Router,
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter,
            http_connection_manager::{
                CodecType, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
            },
            http_filter::ConfigType,
        },
    },
};

use super::{ConfigError, Path, access_log, cluster, route, state::Names, unsupported, value};
use crate::{
    cluster::Http2Settings,
    http::{
        h1::parse,
        manager::{Codec, Forwarded, HttpManager, Limits, RequestId, ServerHeader, Timeouts},
        path::{EscapedSlashes, PathRules},
    },
    route::RouteSlot,
    worker::Shared,
};

/// The type of the only HTTP filter there is.
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// What Envoy allows a head by default.
const HEAD_KB: u32 = 60;
/// Envoy's bound for the setting.
const MAX_HEAD_KB: u32 = 8192;

pub(super) fn compile(
    path: &Path,
    message: &HttpConnectionManager,
    shared: &Shared,
    names: &mut Names,
) -> Result<HttpManager, ConfigError> {
    unsupported!(path, message; add_user_agent, tracing, http3_protocol_options, scheme_header_transformation,
        stream_flush_timeout, request_timeout, xff_num_trusted_hops, original_ip_detection_extensions,
        early_header_mutation_extensions, internal_address_config, via, set_current_client_cert_details,
        forward_client_cert_details, forward_client_cert_matcher, proxy_100_continue, request_id_extension,
        local_reply_config, strip_matching_host_port, strip_port_mode, path_normalization_options,
        strip_trailing_host_dot, proxy_status_config, typed_header_validation_config, append_x_forwarded_port,
        append_local_overload, add_proxy_protocol_connection_state, forward_proto_config,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, access_log_options);
    let codec = match CodecType::try_from(message.codec_type) {
        Ok(CodecType::Auto) => Codec::Auto,
        Ok(CodecType::Http1) => Codec::Http1,
        Ok(CodecType::Http2) => Codec::Http2,
        Ok(CodecType::Http3) => return Err(path.field("codec_type").error("HTTP3 is not supported")),
        Err(_) => return Err(path.field("codec_type").error("is not a known value")),
    };
    let suppress_envoy_headers = filters(path, &message.http_filters)?;
    let routes = match message.route_specifier.as_ref().ok_or_else(|| path.field("route_config").missing())? {
        RouteSpecifier::RouteConfig(config) => {
            let table = route::compile(&path.field("route_config"), config, names)?;
            let slot = RouteSlot::empty();
            slot.set(Some(Arc::new(table)));
            Arc::new(slot)
        }
        RouteSpecifier::Rds(rds) => {
            if rds.route_config_name.is_empty() {
                return Err(path.field("rds.route_config_name").missing());
            }
            names.route(&rds.route_config_name)
        }
        RouteSpecifier::ScopedRoutes(_) => return Err(path.field("scoped_routes").unsupported()),
    };
    let server_header = match ServerHeaderTransformation::try_from(message.server_header_transformation) {
        Ok(ServerHeaderTransformation::Overwrite) => ServerHeader::Overwrite,
        Ok(ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
        Ok(ServerHeaderTransformation::PassThrough) => ServerHeader::PassThrough,
        Err(_) => return Err(path.field("server_header_transformation").error("is not a known value")),
    };
    if let Some(options) = &message.http_protocol_options {
        cluster::http1(&path.field("http_protocol_options"), options)?;
    }
    let http2 = match &message.http2_protocol_options {
        Some(options) => cluster::http2(&path.field("http2_protocol_options"), options)?,
        None => Http2Settings::default(),
    };
    let (limits, timeouts) = bounds(path, message)?;
    Ok(HttpManager {
        stats: shared.registry.http(&message.stat_prefix),
        codec,
        routes,
        server_name: if message.server_name.is_empty() {
            b"weft".to_vec()
        } else {
            server_name(path, message)?
        },
        server_header,
        forwarded: Forwarded {
            use_remote_address: message.use_remote_address.as_ref().is_some_and(|value| value.value),
            skip_append: message.skip_xff_append,
        },
        request_id: RequestId {
            generate: message.generate_request_id.as_ref().is_none_or(|value| value.value),
            preserve_external: message.preserve_external_request_id,
            in_response: message.always_set_request_id_in_response,
        },
        upgrades: upgrades(path, message)?,
        path_rules: path_rules(path, message)?,
        limits,
        timeouts,
        http2,
        access_logs: access_log::compile(path, &message.access_log, names)?,
        suppress_envoy_headers,
    })
}

/// Checks that the router is the only filter; whether it is to leave Envoy's own fields out.
fn filters(path: &Path, filters: &[HttpFilter]) -> Result<bool, ConfigError> {
    let mut suppress = None;
    for (index, filter) in filters.iter().enumerate() {
        let path = path.item("http_filters", index);
        if filter.disabled {
            return Err(path.field("disabled").unsupported());
        }
        let path = path.field("typed_config");
        let config = match &filter.config_type {
            Some(ConfigType::TypedConfig(config)) => config,
            Some(ConfigType::ConfigDiscovery(_)) => {
                return Err(path.error("config_discovery is not supported"));
            }
            None => return Err(path.missing()),
        };
        let name = any::type_name(&config.type_url);
        if name != ROUTER {
            if filter.is_optional {
                tracing::warn!(filter = name, "optional filter is not supported and left out");
                continue;
            }
            return Err(path
                .field("@type")
                .error(format!("filter {:?} ({name}) is not supported", filter.name)));
        }
        if suppress.is_some() || index + 1 != filters.len() {
            return Err(path.error("the router must be the last filter"));
        }
        let router = value::unpacked(&path, any::unpack::<Router>(config))?;
        unsupported!(path, router; upstream_log, upstream_log_options, strict_check_headers,
            respect_expected_rq_timeout, upstream_http_filters, reject_connect_request_early_data);
        suppress = Some(router.suppress_envoy_headers);
    }
    suppress.ok_or_else(|| path.field("http_filters").error("must end with the router filter"))
}

fn bounds(path: &Path, message: &HttpConnectionManager) -> Result<(Limits, Timeouts), ConfigError> {
    let head_kb = value::number(message.max_request_headers_kb.as_ref(), HEAD_KB);
    if head_kb == 0 || head_kb > MAX_HEAD_KB {
        return Err(path.field("max_request_headers_kb").error(format!("must be from 1 to {MAX_HEAD_KB}")));
    }
    let seconds = |count| Some(Duration::from_secs(count));
    let stream_idle =
        value::limit(&path.field("stream_idle_timeout"), message.stream_idle_timeout.as_ref(), seconds(300))?;
    let mut limits = Limits {
        head_bytes: head_kb as usize * 1024,
        head_fields: parse::DEFAULT_MAX_FIELDS,
        requests_per_connection: None,
    };
    let mut timeouts = Timeouts {
        header: value::limit(
            &path.field("request_headers_timeout"),
            message.request_headers_timeout.as_ref(),
            seconds(10),
        )?,
        idle: seconds(15),
        body: if message.stream_idle_timeout.is_some() { stream_idle } else { seconds(15) },
        stream_idle,
    };
    if let Some(common) = &message.common_http_protocol_options {
        let path = path.field("common_http_protocol_options");
        unsupported!(path, common; max_connection_duration, max_connection_duration_jitter, max_response_headers_kb,
            max_stream_duration, headers_with_underscores_action);
        timeouts.idle =
            value::limit(&path.field("idle_timeout"), common.idle_timeout.as_ref(), timeouts.idle)?;
        if let Some(count) = &common.max_headers_count {
            if count.value == 0 || count.value as usize > parse::MAX_FIELDS {
                let reason = format!("must be from 1 to {}", parse::MAX_FIELDS);
                return Err(path.field("max_headers_count").error(reason));
            }
            limits.head_fields = count.value as usize;
        }
        limits.requests_per_connection =
            common.max_requests_per_connection.as_ref().map(|max| max.value).filter(|max| *max > 0);
    }
    Ok((limits, timeouts))
}

fn upgrades(path: &Path, message: &HttpConnectionManager) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    for (index, upgrade) in message.upgrade_configs.iter().enumerate() {
        let path = path.item("upgrade_configs", index);
        unsupported!(path, upgrade; filters);
        let name = upgrade.upgrade_type.to_ascii_lowercase();
        if name == "connect" {
            return Err(path.field("upgrade_type").error("CONNECT is not supported"));
        }
        if upgrade.enabled.as_ref().is_none_or(|enabled| enabled.value) {
            names.push(name);
        }
    }
    Ok(names)
}

fn path_rules(path: &Path, message: &HttpConnectionManager) -> Result<PathRules, ConfigError> {
    let action = path.field("path_with_escaped_slashes_action");
    let escaped_slashes =
        match PathWithEscapedSlashesAction::try_from(message.path_with_escaped_slashes_action) {
            Ok(
                PathWithEscapedSlashesAction::ImplementationSpecificDefault
                | PathWithEscapedSlashesAction::KeepUnchanged,
            ) => EscapedSlashes::Keep,
            Ok(PathWithEscapedSlashesAction::RejectRequest) => EscapedSlashes::Reject,
            Ok(PathWithEscapedSlashesAction::UnescapeAndForward) => EscapedSlashes::Unescape,
            Ok(PathWithEscapedSlashesAction::UnescapeAndRedirect) => {
                return Err(action.error("UNESCAPE_AND_REDIRECT is not supported"));
            }
            Err(_) => return Err(action.error("is not a known value")),
        };
    Ok(PathRules {
        // On unless switched off: routing by a path that the upstream reads differently helps nobody but attackers.
        normalize: message.normalize_path.as_ref().is_none_or(|normalize| normalize.value),
        merge_slashes: message.merge_slashes,
        escaped_slashes,
    })
}

fn server_name(path: &Path, message: &HttpConnectionManager) -> Result<Vec<u8>, ConfigError> {
    ::http::HeaderValue::from_str(&message.server_name)
        .map(|value| value.as_bytes().to_vec())
        .map_err(|_| path.field("server_name").error("is not a field value"))
}
