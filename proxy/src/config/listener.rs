//! Compiling listeners.

use std::{net::IpAddr, sync::Arc, time::Duration};

use weft_xds::{
    any,
    pb::envoy::{
        config::{
            core::v3::CidrRange,
            listener::v3::{
                Filter, FilterChain as ProtoChain, FilterChainMatch, Listener as ProtoListener, filter,
                listener_filter,
            },
        },
        extensions::filters::network::{
            http_connection_manager::v3::HttpConnectionManager,
            tcp_proxy::v3::{TcpProxy as ProtoTcp, tcp_proxy::ClusterSpecifier},
        },
    },
};

use super::{ConfigError, Path, access_log, http, state::Names, unsupported, value};
use crate::{
    listener::{FilterChain, Handler, Listener, matching::ChainMatch},
    tcp::TcpProxy,
    worker::Shared,
};

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
const HTTP_INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
/// Detects nothing that any of our chains could ask for, so it is accepted and does nothing.
const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

/// Envoy's default for looking at the first bytes.
const DETECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections that may wait to be accepted; the kernel caps it.
const BACKLOG: u32 = 4096;

/// Which listener filters are on.
#[derive(Default)]
struct Inspectors {
    original_dst: bool,
    http: bool,
}

pub(crate) fn compile(
    path: &Path,
    message: &ProtoListener,
    shared: &Shared,
    names: &mut Names,
) -> Result<Listener, ConfigError> {
    unsupported!(path, message; additional_addresses, fcds_config, filter_chain_matcher, transparent, freebind,
        socket_options, tcp_fast_open_queue_length, udp_listener_config, api_listener, enable_mptcp, access_log,
        listener_specifier, tcp_keepalive);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; deprecated_v1);
    }
    let address = value::socket_address(&path.field("address"), message.address.as_ref())?;
    let inspectors = inspectors(path, message)?;
    let mut chains = Vec::with_capacity(message.filter_chains.len());
    for (index, chain) in message.filter_chains.iter().enumerate() {
        let path = path.item("filter_chains", index);
        let matches = match &chain.filter_chain_match {
            Some(matches) => chain_match(&path.field("filter_chain_match"), matches)?,
            None => ChainMatch::default(),
        };
        if chains.iter().any(|other: &FilterChain| other.matches == matches) {
            return Err(path.field("filter_chain_match").error("is the same as that of another chain"));
        }
        chains.push(FilterChain { matches, handler: handler(&path, chain, shared, names)? });
    }
    let default_chain = match &message.default_filter_chain {
        Some(chain) => Some(handler(&path.field("default_filter_chain"), chain, shared, names)?),
        None => None,
    };
    let use_original_dst = message.use_original_dst.as_ref().is_some_and(|value| value.value);
    if chains.is_empty() && default_chain.is_none() && !use_original_dst {
        return Err(path.field("filter_chains").missing());
    }
    let stat_name = if message.stat_prefix.is_empty() {
        address.to_string().replace(':', "_")
    } else {
        message.stat_prefix.clone()
    };
    Ok(Listener {
        name: message.name.clone(),
        address,
        bind_to_port: message.bind_to_port.as_ref().is_none_or(|value| value.value),
        use_original_dst,
        original_dst: use_original_dst || inspectors.original_dst,
        http_inspector: inspectors.http,
        detect_timeout: value::limit(
            &path.field("listener_filters_timeout"),
            message.listener_filters_timeout.as_ref(),
            Some(DETECT_TIMEOUT),
        )?,
        continue_on_timeout: message.continue_on_listener_filters_timeout,
        backlog: value::number(message.tcp_backlog_size.as_ref(), BACKLOG),
        reuse_port: message.enable_reuse_port.as_ref().is_none_or(|value| value.value),
        chains,
        default_chain,
        stats: shared.registry.listener(&stat_name),
        draining: Arc::default(),
    })
}

fn inspectors(path: &Path, message: &ProtoListener) -> Result<Inspectors, ConfigError> {
    let mut inspectors = Inspectors::default();
    for (index, filter) in message.listener_filters.iter().enumerate() {
        let path = path.item("listener_filters", index);
        unsupported!(path, filter; filter_disabled);
        let path = path.field("typed_config");
        let Some(listener_filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
            return Err(path.missing());
        };
        match any::type_name(&config.type_url) {
            ORIGINAL_DST => inspectors.original_dst = true,
            HTTP_INSPECTOR => inspectors.http = true,
            TLS_INSPECTOR => {}
            other => {
                return Err(path.field("@type").error(format!("listener filter {other:?} is not supported")));
            }
        }
    }
    Ok(inspectors)
}

fn chain_match(path: &Path, message: &FilterChainMatch) -> Result<ChainMatch, ConfigError> {
    unsupported!(path, message; address_suffix, suffix_len, direct_source_prefix_ranges, source_type, server_names);
    match message.transport_protocol.as_str() {
        "" | "raw_buffer" => {}
        other => return Err(path.field("transport_protocol").error(format!("{other:?} is not supported"))),
    }
    let port = |name: &str, value: u32| {
        u16::try_from(value).map_err(|_| path.field(name).error("must be at most 65535"))
    };
    Ok(ChainMatch {
        destination_port: message
            .destination_port
            .as_ref()
            .map(|value| port("destination_port", value.value))
            .transpose()?,
        prefixes: networks(path, "prefix_ranges", &message.prefix_ranges)?,
        source_prefixes: networks(path, "source_prefix_ranges", &message.source_prefix_ranges)?,
        source_ports: message
            .source_ports
            .iter()
            .map(|value| port("source_ports", *value))
            .collect::<Result<_, _>>()?,
        transport_protocol: message.transport_protocol.clone(),
        application_protocols: message.application_protocols.clone(),
    })
}

fn networks(path: &Path, name: &str, ranges: &[CidrRange]) -> Result<Vec<(IpAddr, u8)>, ConfigError> {
    ranges
        .iter()
        .enumerate()
        .map(|(index, range)| {
            let path = path.item(name, index);
            let address: IpAddr = range
                .address_prefix
                .parse()
                .map_err(|_| path.field("address_prefix").error("is not an IP address"))?;
            let longest = if address.is_ipv4() { 32 } else { 128 };
            let length = value::number(range.prefix_len.as_ref(), 0);
            match u8::try_from(length) {
                Ok(length) if length <= longest => Ok((address, length)),
                _ => Err(path.field("prefix_len").error(format!("must be at most {longest}"))),
            }
        })
        .collect()
}

fn handler(
    path: &Path,
    message: &ProtoChain,
    shared: &Shared,
    names: &mut Names,
) -> Result<Handler, ConfigError> {
    unsupported!(path, message; transport_socket, transport_socket_connect_timeout);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; use_proxy_proto);
    }
    let [filter] = message.filters.as_slice() else {
        return Err(path.field("filters").error("exactly one network filter is supported"));
    };
    network_filter(&path.item("filters", 0), filter, shared, names)
}

fn network_filter(
    path: &Path,
    filter: &Filter,
    shared: &Shared,
    names: &mut Names,
) -> Result<Handler, ConfigError> {
    let path = path.field("typed_config");
    let config = match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(config)) => config,
        Some(filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(path.error("config_discovery is not supported"));
        }
        None => return Err(path.missing()),
    };
    match any::type_name(&config.type_url) {
        MANAGER => {
            let message = value::unpacked(&path, any::unpack::<HttpConnectionManager>(config))?;
            Ok(Handler::Http(Arc::new(http::compile(&path, &message, shared, names)?)))
        }
        TCP_PROXY => {
            let message = value::unpacked(&path, any::unpack::<ProtoTcp>(config))?;
            Ok(Handler::Tcp(Arc::new(tcp_proxy(&path, &message, shared, names)?)))
        }
        other => {
            Err(path.field("@type").error(format!("filter {:?} ({other}) is not supported", filter.name)))
        }
    }
}

fn tcp_proxy(
    path: &Path,
    message: &ProtoTcp,
    shared: &Shared,
    names: &mut Names,
) -> Result<TcpProxy, ConfigError> {
    unsupported!(path, message; on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout,
        backoff_options, hash_policy, tunneling_config, max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage, access_log_options, proxy_protocol_tlvs,
        upstream_connect_mode, max_early_data_bytes, check_drain_close);
    let clusters = match message.cluster_specifier.as_ref().ok_or_else(|| path.field("cluster").missing())? {
        ClusterSpecifier::Cluster(name) if name.is_empty() => return Err(path.field("cluster").missing()),
        ClusterSpecifier::Cluster(name) => vec![(names.cluster(name), 1)],
        ClusterSpecifier::WeightedClusters(weighted) => {
            let path = path.field("weighted_clusters");
            let mut clusters = Vec::with_capacity(weighted.clusters.len());
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                unsupported!(path.item("clusters", index), cluster; metadata_match);
                clusters.push((names.cluster(&cluster.name), cluster.weight));
            }
            let total = clusters.iter().try_fold(0u32, |sum, (_, weight)| sum.checked_add(*weight));
            if total.is_none_or(|total| total == 0) {
                return Err(path
                    .field("clusters")
                    .error("the sum of the weights must be from 1 to 4294967295"));
            }
            clusters
        }
    };
    Ok(TcpProxy {
        stats: shared.registry.tcp(&message.stat_prefix),
        clusters,
        idle_timeout: value::limit(
            &path.field("idle_timeout"),
            message.idle_timeout.as_ref(),
            Some(Duration::from_secs(3600)),
        )?,
        max_connect_attempts: value::number(message.max_connect_attempts.as_ref(), 1).max(1),
        access_logs: access_log::compile(path, &message.access_log, names)?,
    })
}
