//! Compiling listeners.

use std::{sync::Arc, time::Duration};

use weft_xds::{
    any,
    pb::envoy::{
        config::{
            core::v3::TrafficDirection,
            listener::v3::{FilterChain as ProtoChain, Listener as ProtoListener},
        },
        extensions::transport_sockets::tls::v3::DownstreamTlsContext,
    },
};

use super::{
    ConfigError, Path, chain_match, listener_filter, names::Names, network_filter, on_demand,
    tls::HANDSHAKE_TIMEOUT, unsupported, value,
};
use crate::{
    listener::{FilterChain, Listener},
    tls::ServerTls,
    worker::{Shared, drain::Drain},
};

const DOWNSTREAM_TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// Envoy's default for all listener filters together.
const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections that may wait to be accepted; the kernel caps it.
const BACKLOG: u32 = 4096;

pub(crate) fn compile(
    path: &Path,
    message: &ProtoListener,
    shared: &Shared,
    names: &mut Names,
) -> Result<Listener, ConfigError> {
    unsupported!(path, message; additional_addresses, fcds_config, filter_chain_matcher, transparent, freebind,
        socket_options, tcp_fast_open_queue_length, udp_listener_config, api_listener, enable_mptcp, access_log,
        listener_specifier, tcp_keepalive, connection_balance_config);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; deprecated_v1);
    }
    let address = value::socket_address(&path.field("address"), message.address.as_ref())?;
    let mut chains = Vec::with_capacity(message.filter_chains.len());
    for (index, chain) in message.filter_chains.iter().enumerate() {
        let path = path.item("filter_chains", index);
        let chain = filter_chain(&path, chain, shared, names)?;
        if chains.iter().any(|other: &FilterChain| other.matches == chain.matches) {
            return Err(path.field("filter_chain_match").error("is the same as that of another chain"));
        }
        chains.push(chain);
    }
    let default_chain = match &message.default_filter_chain {
        Some(chain) => Some(filter_chain(&path.field("default_filter_chain"), chain, shared, names)?),
        None => None,
    };
    let use_original_dst = message.use_original_dst.as_ref().is_some_and(|value| value.value);
    if chains.is_empty() && default_chain.is_none() && !use_original_dst {
        return Err(path.field("filter_chains").missing());
    }
    let needs_hello = chains.iter().any(|chain| chain.matches.needs_hello());
    let stat_name = if message.stat_prefix.is_empty() {
        address.to_string().replace(':', "_")
    } else {
        message.stat_prefix.clone()
    };
    Ok(Listener {
        name: message.name.clone(),
        inbound: message.traffic_direction == TrafficDirection::Inbound as i32,
        address,
        bind_to_port: message.bind_to_port.as_ref().is_none_or(|value| value.value),
        use_original_dst,
        on_demand: on_demand::settings(path, message)?,
        gate: shared.runtime.gate(&message.name),
        global_gate: (!message.ignore_global_conn_limit).then(|| shared.runtime.global_gate()),
        filters: listener_filter::compile(path, message, use_original_dst, needs_hello, shared)?,
        filters_timeout: value::limit(
            &path.field("listener_filters_timeout"),
            message.listener_filters_timeout.as_ref(),
            Some(FILTERS_TIMEOUT),
        )?,
        continue_on_timeout: message.continue_on_listener_filters_timeout,
        backlog: value::number(message.tcp_backlog_size.as_ref(), BACKLOG),
        reuse_port: message.enable_reuse_port.as_ref().is_none_or(|value| value.value),
        chains,
        default_chain,
        stats: shared.registry.listener(&stat_name),
        drain: Arc::new(Drain::new(shared.drain_plan)),
    })
}

fn filter_chain(
    path: &Path,
    message: &ProtoChain,
    shared: &Shared,
    names: &mut Names,
) -> Result<FilterChain, ConfigError> {
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; use_proxy_proto);
    }
    let matches = match &message.filter_chain_match {
        Some(matches) => chain_match::compile(&path.field("filter_chain_match"), matches)?,
        None => Default::default(),
    };
    let tls = downstream_tls(path, message, names)?;
    let (gates, handler) = network_filter::compile(path, &message.filters, shared, names)?;
    Ok(FilterChain { matches, limits: gates.limits, rbac: gates.rbac, tls, handler })
}

/// What protects the connections of a chain.
fn downstream_tls(
    path: &Path,
    chain: &ProtoChain,
    names: &mut Names,
) -> Result<Option<Arc<ServerTls>>, ConfigError> {
    let timeout = value::limit(
        &path.field("transport_socket_connect_timeout"),
        chain.transport_socket_connect_timeout.as_ref(),
        Some(HANDSHAKE_TIMEOUT),
    )?;
    let socket = value::transport_socket(&path.field("transport_socket"), chain.transport_socket.as_ref())?;
    let Some((path, config)) = socket else { return Ok(None) };
    if any::type_name(&config.type_url) != DOWNSTREAM_TLS {
        return Err(path.field("@type").error(format!("{:?} is not supported here", config.type_url)));
    }
    let message = value::unpacked(&path, any::unpack::<DownstreamTlsContext>(config))?;
    names.secrets.server(&path, &message, timeout).map(Some)
}
