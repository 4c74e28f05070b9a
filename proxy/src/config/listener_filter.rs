//! Compiling listener filters.

use weft_xds::{
    any,
    pb::envoy::{
        config::{
            core::v3::proxy_protocol_config::Version as ProtoVersion,
            listener::v3::{Listener as ProtoListener, listener_filter},
        },
        extensions::filters::listener::{
            proxy_protocol::v3::ProxyProtocol as ProtoProxyProtocol,
            tls_inspector::v3::TlsInspector as ProtoTlsInspector,
        },
    },
};

use super::{ConfigError, Path, unsupported, value};
use crate::{
    listener::{filter::ListenerFilter, proxy_protocol::ProxyProtocol, tls_inspector::TlsInspector},
    proxy_protocol::Version,
    worker::Shared,
};

const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

/// The longest ClientHello that is read, Envoy's default and its maximum.
const MAX_HELLO: u32 = 16 * 1024;
/// The shortest limit: less would refuse what every client sends.
const MIN_MAX_HELLO: u32 = 256;

/// Compiles the filters of a listener. As in Envoy those are added that `use_original_dst` or conditions of its filter
/// chains (`needs_hello`) cannot do without.
pub(super) fn compile(
    path: &Path,
    message: &ProtoListener,
    use_original_dst: bool,
    needs_hello: bool,
    shared: &Shared,
) -> Result<Vec<ListenerFilter>, ConfigError> {
    let mut filters = message
        .listener_filters
        .iter()
        .enumerate()
        .map(|(index, filter)| one(&path.item("listener_filters", index), filter, shared))
        .collect::<Result<Vec<_>, _>>()?;
    if use_original_dst && !filters.iter().any(|filter| matches!(filter, ListenerFilter::OriginalDst)) {
        filters.push(ListenerFilter::OriginalDst);
    }
    if needs_hello && !filters.iter().any(|filter| matches!(filter, ListenerFilter::TlsInspector(_))) {
        filters.push(ListenerFilter::TlsInspector(tls_inspector(
            path,
            &ProtoTlsInspector::default(),
            shared,
        )?));
    }
    Ok(filters)
}

fn one(
    path: &Path,
    message: &weft_xds::pb::envoy::config::listener::v3::ListenerFilter,
    shared: &Shared,
) -> Result<ListenerFilter, ConfigError> {
    unsupported!(path, message; filter_disabled);
    let path = path.field("typed_config");
    let config = match &message.config_type {
        Some(listener_filter::ConfigType::TypedConfig(config)) => config,
        Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(path.error("config_discovery is not supported"));
        }
        None => return Err(path.missing()),
    };
    match any::type_name(&config.type_url) {
        ORIGINAL_DST => Ok(ListenerFilter::OriginalDst),
        HTTP_INSPECTOR => Ok(ListenerFilter::HttpInspector),
        TLS_INSPECTOR => {
            let message = value::unpacked(&path, any::unpack(config))?;
            Ok(ListenerFilter::TlsInspector(tls_inspector(&path, &message, shared)?))
        }
        PROXY_PROTOCOL => {
            let message = value::unpacked(&path, any::unpack(config))?;
            Ok(ListenerFilter::ProxyProtocol(proxy_protocol(&path, &message, shared)?))
        }
        other => Err(path.field("@type").error(format!("listener filter {other:?} is not supported"))),
    }
}

fn tls_inspector(
    path: &Path,
    message: &ProtoTlsInspector,
    shared: &Shared,
) -> Result<TlsInspector, ConfigError> {
    // Fingerprints would be there to be matched and logged; nothing here does.
    for (name, enabled) in [
        ("enable_ja3_fingerprinting", &message.enable_ja3_fingerprinting),
        ("enable_ja4_fingerprinting", &message.enable_ja4_fingerprinting),
    ] {
        if enabled.as_ref().is_some_and(|enabled| enabled.value) {
            return Err(path.field(name).unsupported());
        }
    }
    let max_hello = value::number(message.max_client_hello_size.as_ref(), MAX_HELLO);
    if !(MIN_MAX_HELLO..=MAX_HELLO).contains(&max_hello) {
        return Err(path
            .field("max_client_hello_size")
            .error(format!("must be from {MIN_MAX_HELLO} to {MAX_HELLO}")));
    }
    Ok(TlsInspector {
        max_hello: max_hello as usize,
        only_tls: message.close_connection_on_client_hello_parsing_errors,
        stats: shared.registry.tls_inspectors(),
    })
}

fn proxy_protocol(
    path: &Path,
    message: &ProtoProxyProtocol,
    shared: &Shared,
) -> Result<ProxyProtocol, ConfigError> {
    unsupported!(path, message; rules, pass_through_tlvs, tlv_location);
    let disallowed = message
        .disallowed_versions
        .iter()
        .enumerate()
        .map(|(index, value)| version(&path.item("disallowed_versions", index), *value))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ProxyProtocol {
        optional: message.allow_requests_without_proxy_protocol,
        disallowed,
        stats: shared.registry.proxy_protocol(&message.stat_prefix),
    })
}

/// A version of the PROXY protocol.
pub(super) fn version(path: &Path, value: i32) -> Result<Version, ConfigError> {
    match ProtoVersion::try_from(value) {
        Ok(ProtoVersion::V1) => Ok(Version::V1),
        Ok(ProtoVersion::V2) => Ok(Version::V2),
        Err(_) => Err(path.error("is not a known value")),
    }
}
