//! Compiling HTTP connection managers.

use std::{sync::Arc, time::Duration};

use weft_xds::{
    ResourceType,
    pb::envoy::{
        config::core::v3::http_protocol_options::HeadersWithUnderscoresAction,
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager,
            http_connection_manager::{
                CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
                ServerHeaderTransformation,
            },
        },
    },
};

use super::{
    ConfigError, Path, access_log, cluster, http2,
    names::Names,
    route, scoped_routes,
    source::{Patience, Source},
    unsupported, value,
};
use crate::{
    filter::config as filter,
    http::{
        h1::parse,
        h2::Http2Settings,
        manager::{
            ClientCert, Codec, ForwardClientCert, Forwarded, HttpManager, Limits, RequestId, ServerHeader,
            Timeouts, Underscores,
        },
        path::{EscapedSlashes, PathRules},
    },
    route::{RouteSlot, scopes::Routes},
    worker::Shared,
};

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
        stream_flush_timeout, xff_num_trusted_hops, original_ip_detection_extensions,
        early_header_mutation_extensions, internal_address_config, via,
        forward_client_cert_matcher, proxy_100_continue, request_id_extension,
        local_reply_config, strip_matching_host_port, strip_port_mode, path_normalization_options,
        strip_trailing_host_dot, proxy_status_config, typed_header_validation_config, append_x_forwarded_port,
        append_local_overload, add_proxy_protocol_connection_state, forward_proto_config,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, access_log_options, drain_timeout, drain_timeout_jitter);
    // After a message that was not understood, where the next one begins is a guess.
    if message.stream_error_on_invalid_http_message.as_ref().is_some_and(|keep| keep.value) {
        return Err(path.field("stream_error_on_invalid_http_message").error("true is not supported"));
    }
    let codec = match CodecType::try_from(message.codec_type) {
        Ok(CodecType::Auto) => Codec::Auto,
        Ok(CodecType::Http1) => Codec::Http1,
        Ok(CodecType::Http2) => Codec::Http2,
        Ok(CodecType::Http3) => return Err(path.field("codec_type").error("HTTP3 is not supported")),
        Err(_) => return Err(path.field("codec_type").error("is not a known value")),
    };
    let filters = filter::compile(path, &message.http_filters, &message.stat_prefix, names, &shared.upkeeps)?;
    let routes = match message.route_specifier.as_ref().ok_or_else(|| path.field("route_config").missing())? {
        RouteSpecifier::RouteConfig(config) => {
            let table = route::compile(&path.field("route_config"), config, names)?;
            let slot = RouteSlot::empty();
            slot.set(Some(Arc::new(table)));
            Routes::One(Arc::new(slot))
        }
        RouteSpecifier::Rds(rds) => {
            if rds.route_config_name.is_empty() {
                return Err(path.field("rds.route_config_name").missing());
            }
            let source = Source::of(
                &path.field("rds"),
                ("route_config_name", &rds.route_config_name),
                ("config_source", rds.config_source.as_ref()),
                ResourceType::RouteConfiguration,
                &names.servers,
            )?;
            let patience = Patience::read(&path.field("rds.config_source"), rds.config_source.as_ref())?;
            names.patience = names.patience.and(patience);
            Routes::One(names.route(&source, &rds.route_config_name))
        }
        RouteSpecifier::ScopedRoutes(scoped) => {
            scoped_routes::compile(&path.field("scoped_routes"), scoped, names)?
        }
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
        Some(options) => {
            http2::compile(&path.field("http2_protocol_options"), options, Http2Settings::downstream())?
        }
        None => Http2Settings::downstream(),
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
        client_cert: client_cert(path, message)?,
        request_id: RequestId {
            generate: message.generate_request_id.as_ref().is_none_or(|value| value.value),
            preserve_external: message.preserve_external_request_id,
            in_response: message.always_set_request_id_in_response,
        },
        upgrades: upgrades(path, message)?,
        path_rules: path_rules(path, message)?,
        underscores: underscores(path, message)?,
        limits,
        timeouts,
        http2,
        access_logs: access_log::compile(path, &message.access_log, names)?,
        filters: filters.chain,
        suppress_envoy_headers: filters.suppress_envoy_headers,
    })
}

fn client_cert(path: &Path, message: &HttpConnectionManager) -> Result<ClientCert, ConfigError> {
    let forward = match ForwardClientCertDetails::try_from(message.forward_client_cert_details) {
        Ok(ForwardClientCertDetails::Sanitize) => ForwardClientCert::Sanitize,
        Ok(ForwardClientCertDetails::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(ForwardClientCertDetails::AppendForward) => ForwardClientCert::AppendForward,
        Ok(ForwardClientCertDetails::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Ok(ForwardClientCertDetails::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Err(_) => return Err(path.field("forward_client_cert_details").error("is not a known value")),
    };
    let details = message.set_current_client_cert_details.unwrap_or_default();
    Ok(ClientCert {
        forward,
        subject: details.subject.is_some_and(|value| value.value),
        certificate: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    })
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
        request: value::limit(&path.field("request_timeout"), message.request_timeout.as_ref(), None)?,
        stream_max: None,
        body: if message.stream_idle_timeout.is_some() { stream_idle } else { seconds(15) },
        stream_idle,
        delayed_close: value::limit(
            &path.field("delayed_close_timeout"),
            message.delayed_close_timeout.as_ref(),
            seconds(1),
        )?,
    };
    if let Some(common) = &message.common_http_protocol_options {
        let path = path.field("common_http_protocol_options");
        unsupported!(path, common; max_connection_duration, max_connection_duration_jitter, max_response_headers_kb);
        timeouts.stream_max =
            value::limit(&path.field("max_stream_duration"), common.max_stream_duration.as_ref(), None)?;
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
        if upgrade.enabled.as_ref().is_none_or(|enabled| enabled.value) {
            names.push(name);
        }
    }
    Ok(names)
}

fn underscores(path: &Path, message: &HttpConnectionManager) -> Result<Underscores, ConfigError> {
    let action = message
        .common_http_protocol_options
        .as_ref()
        .map_or(0, |common| common.headers_with_underscores_action);
    match HeadersWithUnderscoresAction::try_from(action) {
        Ok(HeadersWithUnderscoresAction::Allow) => Ok(Underscores::Allow),
        Ok(HeadersWithUnderscoresAction::RejectRequest) => Ok(Underscores::Reject),
        Ok(HeadersWithUnderscoresAction::DropHeader) => Ok(Underscores::Drop),
        Err(_) => Err(path
            .field("common_http_protocol_options.headers_with_underscores_action")
            .error("is not a known value")),
    }
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
