//! Compiling `ExtAuthz`.

use std::{sync::Arc, time::Duration};

use weft_xds::{
    any,
    pb::envoy::{
        extensions::filters::http::ext_authz::v3::{
            BufferSettings, CheckSettings, ExtAuthz as Proto, ExtAuthzPerRoute, HttpService as ProtoHttp,
            ext_authz::Services, ext_authz_per_route::Override,
        },
        r#type::matcher::v3::ListStringMatcher,
    },
};

use super::{
    BodyRule, COUNTERS, ExtAuthz, OwnCheck, Service, Telling,
    http::{HttpService, PathRule},
};
use crate::{
    config::{ConfigError, Path, matcher, route, service, unsupported, value},
    filter::{Inputs, Kind},
    route::matcher::TextMatch,
    runtime::Flag,
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(compile(path, &message, inputs)?))
    },
    of_route: Some(("envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<ExtAuthzPerRoute>(config))?;
        Ok(Arc::new(match message.r#override {
            Some(Override::Disabled(disabled)) => OwnCheck::Disabled(disabled),
            Some(Override::CheckSettings(settings)) => own_settings(&path.field("check_settings"), settings)?,
            None => return Err(path.field("check_settings").missing()),
        }))
    })),
};

/// How long the service is asked where nothing is configured.
const TIMEOUT: Duration = Duration::from_millis(200);
const FORBIDDEN: u16 = 403;

fn compile(path: &Path, message: &Proto, inputs: &mut Inputs<'_>) -> Result<ExtAuthz, ConfigError> {
    unsupported!(path, message; clear_route_cache, metadata_context_namespaces,
        typed_metadata_context_namespaces, route_metadata_context_namespaces, route_typed_metadata_context_namespaces,
        filter_enabled_metadata, bootstrap_metadata_labels_key, include_tls_session, decoder_header_mutation_rules,
        filter_metadata, emit_filter_state_stats, enforce_response_header_limits, shadow_mode);
    service::api_version(path, message.transport_api_version)?;
    let service = match &message.services {
        Some(Services::GrpcService(service)) => {
            let path = path.field("grpc_service");
            Service::Grpc(service::grpc(&path, service, TIMEOUT, inputs.names)?)
        }
        Some(Services::HttpService(service)) => {
            Service::Http(http(&path.field("http_service"), service, inputs)?)
        }
        None => return Err(path.field("grpc_service").missing()),
    };
    let status_on_error =
        message.status_on_error.map(|status| u32::try_from(status.code).unwrap_or_default());
    let deny = message.deny_at_disable.as_ref();
    let deny_by_default = deny.and_then(|flag| flag.default_value).is_some_and(|flag| flag.value);
    let allowed = message.allowed_headers.as_ref();
    Ok(ExtAuthz {
        service,
        telling: Telling {
            allowed: allowed.map(|list| patterns(&path.field("allowed_headers"), Some(list))).transpose()?,
            disallowed: patterns(&path.field("disallowed_headers"), message.disallowed_headers.as_ref())?,
            raw_fields: message.encode_raw_headers,
            peer_certificate: message.include_peer_certificate,
            body: body(&path.field("with_request_body"), message.with_request_body.as_ref())?,
        },
        failure_mode_allow: message.failure_mode_allow,
        failure_mode_allow_field: message.failure_mode_allow_header_add,
        status_on_error: match status_on_error {
            None | Some(0) => FORBIDDEN,
            Some(status) => value::status(&path.field("status_on_error.code"), status)?,
        },
        enabled: value::runtime_share(
            &path.field("filter_enabled"),
            message.filter_enabled.as_ref(),
            value::ALL,
        )?,
        deny_at_disable: Flag::new(deny.map_or("", |flag| &flag.runtime_key), deny_by_default),
        longest_denial: Some(message.max_denied_response_body_bytes as usize).filter(|limit| *limit > 0),
        stats: inputs.labelled_counters(&COUNTERS, "envoy_ext_authz_prefix", &message.stat_prefix),
    })
}

fn http(path: &Path, message: &ProtoHttp, inputs: &mut Inputs<'_>) -> Result<HttpService, ConfigError> {
    unsupported!(path, message; retry_policy);
    let uri = message.server_uri.as_ref().ok_or_else(|| path.field("server_uri").missing())?;
    let (cluster, timeout) = service::http(&path.field("server_uri"), uri, inputs.names)?;
    let absolute = |name: &str, text: &str| {
        if text.starts_with('/') {
            route::rewrite_text(&path.field(name), text)
        } else {
            Err(path.field(name).error("must begin with \"/\""))
        }
    };
    let target = match (message.path_prefix.as_str(), message.path_override.as_str()) {
        ("", "") => PathRule::Prefix(Vec::new()),
        (prefix, "") => PathRule::Prefix(absolute("path_prefix", prefix)?),
        ("", whole) => PathRule::Override(absolute("path_override", whole)?),
        _ => return Err(path.error("path_prefix and path_override exclude each other")),
    };
    let mut add = Vec::new();
    if let Some(request) = &message.authorization_request {
        let path = path.field("authorization_request");
        #[expect(deprecated, reason = "checked only to be refused")]
        {
            unsupported!(path, request; allowed_headers);
        }
        for (index, field) in request.headers_to_add.iter().enumerate() {
            add.push(value::plain_field(&path.item("headers_to_add", index), field)?);
        }
    }
    let response = message.authorization_response.clone().unwrap_or_default();
    let path = path.field("authorization_response");
    unsupported!(path, response; dynamic_metadata_from_headers);
    let list = |name: &str, list: &Option<ListStringMatcher>| patterns(&path.field(name), list.as_ref());
    Ok(HttpService {
        cluster,
        timeout,
        path: target,
        add,
        upstream: list("allowed_upstream_headers", &response.allowed_upstream_headers)?,
        upstream_append: list(
            "allowed_upstream_headers_to_append",
            &response.allowed_upstream_headers_to_append,
        )?,
        client: list("allowed_client_headers", &response.allowed_client_headers)?,
        client_on_success: list(
            "allowed_client_headers_on_success",
            &response.allowed_client_headers_on_success,
        )?,
    })
}

fn own_settings(path: &Path, message: CheckSettings) -> Result<OwnCheck, ConfigError> {
    unsupported!(path, message; service_override);
    let own = body(&path.field("with_request_body"), message.with_request_body.as_ref())?;
    let body = match (message.disable_request_body_buffering, own) {
        (true, Some(_)) => {
            return Err(path.error("disable_request_body_buffering and with_request_body exclude each other"));
        }
        (true, None) => Some(None),
        (false, own) => own.map(Some),
    };
    Ok(OwnCheck::Settings { extensions: message.context_extensions, body })
}

fn body(path: &Path, message: Option<&BufferSettings>) -> Result<Option<BodyRule>, ConfigError> {
    let Some(message) = message else { return Ok(None) };
    if message.max_request_bytes == 0 {
        return Err(path.field("max_request_bytes").error("must be at least 1"));
    }
    Ok(Some(BodyRule {
        limit: message.max_request_bytes as usize,
        partial: message.allow_partial_message,
        as_bytes: message.pack_as_bytes,
    }))
}

fn patterns(path: &Path, list: Option<&ListStringMatcher>) -> Result<Vec<TextMatch>, ConfigError> {
    let patterns = list.map_or(&[][..], |list| &list.patterns).iter().enumerate();
    patterns.map(|(index, pattern)| matcher::text_match(&path.item("patterns", index), pattern)).collect()
}
