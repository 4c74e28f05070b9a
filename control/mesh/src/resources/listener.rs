//! Listeners.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use prost::Name;
use weft_discovery::model::AppProtocol;
use weft_xds::{
    any::pack,
    pb::{
        envoy::{
            config::{
                core::v3::{Metadata, TrafficDirection},
                listener::v3::{
                    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
                },
            },
            extensions::filters::{
                http::router::v3::Router,
                listener::{http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst},
                network::{
                    http_connection_manager::v3::{
                        HttpConnectionManager, HttpFilter, Rds,
                        http_connection_manager::{
                            CodecType, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
                        },
                        http_filter,
                    },
                    tcp_proxy::v3::{TcpProxy, tcp_proxy},
                },
            },
        },
        google::protobuf::{Any, Struct, Value, value::Kind},
    },
};

use super::{bool_value, duration, over_ads, socket_address};

/// A client that says nothing for as long wants the server to speak first: its connection is opaque.
const DETECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where in a listener's metadata the proxy looks, and for what.
const NAMESPACE: &str = "weft.dev";
const ON_DEMAND: &str = "on_demand_listeners";
/// What the inspector calls HTTP.
const HTTP_NAMES: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// Whose traffic a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the workload.
    Inbound,
    /// From the workload.
    Outbound,
}

/// The listener of one port, bound to its own address.
///
/// `name` also names the route configuration and the statistics; `cluster` is where opaque traffic goes.
pub fn port(
    name: &str,
    direction: Direction,
    address: IpAddr,
    port: u16,
    protocol: AppProtocol,
    cluster: &str,
) -> Listener {
    let http = || connection_manager(name);
    let tcp = || tcp_proxy(name, cluster);
    let mut listener = Listener {
        name: name.to_owned(),
        address: Some(socket_address(address, port)),
        traffic_direction: match direction {
            Direction::Inbound => TrafficDirection::Inbound,
            Direction::Outbound => TrafficDirection::Outbound,
        }
        .into(),
        ..Listener::default()
    };
    match protocol {
        AppProtocol::Http | AppProtocol::Http2 => listener.filter_chains = vec![chain("http", http())],
        AppProtocol::Tcp => listener.filter_chains = vec![chain("tcp", tcp())],
        AppProtocol::Detect => {
            listener.listener_filters =
                vec![listener_filter("envoy.filters.listener.http_inspector", &HttpInspector::default())];
            listener.listener_filters_timeout = Some(duration(DETECT_TIMEOUT));
            listener.continue_on_listener_filters_timeout = true;
            listener.filter_chains = vec![FilterChain {
                filter_chain_match: Some(FilterChainMatch {
                    application_protocols: HTTP_NAMES.map(str::to_owned).into(),
                    ..FilterChainMatch::default()
                }),
                ..chain("http", http())
            }];
            listener.default_filter_chain = Some(chain("tcp", tcp()));
        }
    }
    listener
}

/// The listener of one port that gets captured connections from a [`capture`] listener instead of a socket.
pub fn captured_port(
    name: &str,
    direction: Direction,
    address: IpAddr,
    number: u16,
    protocol: AppProtocol,
    cluster: &str,
) -> Listener {
    Listener { bind_to_port: bool_value(false), ..port(name, direction, address, number, protocol, cluster) }
}

/// The listener of all captured connections of one direction. It hands each to the listener of the address that the
/// connection was going to; those to other addresses go on as they are, through `cluster`.
pub fn capture(name: &str, direction: Direction, number: u16, cluster: &str) -> Listener {
    let any = Ipv4Addr::UNSPECIFIED.into();
    Listener {
        listener_filters: vec![listener_filter(
            "envoy.filters.listener.original_dst",
            &OriginalDst::default(),
        )],
        use_original_dst: bool_value(true),
        ..port(name, direction, any, number, AppProtocol::Tcp, cluster)
    }
}

/// What a capturing listener says to have the listener of a service asked for when its address is first called, and
/// given up when it was idle for long. Other proxies than ours read it over.
pub fn on_demand() -> Metadata {
    let ours = Struct { fields: [(ON_DEMAND.to_owned(), object(Struct::default()))].into() };
    Metadata { filter_metadata: [(NAMESPACE.to_owned(), ours)].into(), ..Metadata::default() }
}

fn object(fields: Struct) -> Value {
    Value { kind: Some(Kind::StructValue(fields)) }
}

fn chain(name: &str, filter: Filter) -> FilterChain {
    FilterChain { name: name.to_owned(), filters: vec![filter], ..FilterChain::default() }
}

fn connection_manager(name: &str) -> Filter {
    let manager = HttpConnectionManager {
        codec_type: CodecType::Auto.into(),
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: name.to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
            ..HttpFilter::default()
        }],
        // The mesh is not to be seen by those who speak through it.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        ..HttpConnectionManager::default()
    };
    network_filter("envoy.filters.network.http_connection_manager", pack(&manager))
}

fn tcp_proxy(name: &str, cluster: &str) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", pack(&proxy))
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

fn listener_filter(name: &str, config: &impl Name) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack(config))),
        ..ListenerFilter::default()
    }
}
