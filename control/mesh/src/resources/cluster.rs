//! Clusters.

use std::{net::IpAddr, time::Duration};

use weft_discovery::model::AppProtocol;
use weft_xds::{
    any::pack,
    balancing::PeakEwma,
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    CircuitBreakers, Cluster, LoadBalancingPolicy, circuit_breakers,
                    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy},
                    load_balancing_policy,
                },
                core::v3::{Http1ProtocolOptions, Http2ProtocolOptions, TypedExtensionConfig},
                endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints},
            },
            extensions::{
                load_balancing_policies::{least_request::v3::LeastRequest, round_robin::v3::RoundRobin},
                upstreams::http::v3::{
                    HttpProtocolOptions,
                    http_protocol_options::{
                        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
                        explicit_http_config::ProtocolConfig,
                    },
                },
            },
        },
        google::protobuf::Any,
    },
};

use super::{duration, endpoints::lb_endpoint, over_ads, u32_value};
use crate::policy::{Balancer, ServicePolicy};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// To an endpoint on the same host there is no reason to wait long.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Envoy would otherwise refuse what exceeds 1024 connections or requests per cluster: a limit that nobody asked for.
const NO_LIMIT: u32 = u32::MAX;

/// The cluster of a service's port; its endpoints come over EDS.
pub fn service(name: &str, protocol: AppProtocol, policy: &ServicePolicy) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: kind(DiscoveryType::Eds),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(over_ads()),
            service_name: String::new(),
        }),
        connect_timeout: Some(duration(policy.connect_timeout)),
        load_balancing_policy: match policy.balancer {
            Balancer::RoundRobin => None,
            Balancer::PeakEwma => Some(peak_ewma()),
        },
        circuit_breakers: Some(unlimited()),
        ..http(protocol)
    }
}

/// The cluster of one inbound port: the workload itself.
pub fn workload(name: &str, protocol: AppProtocol, address: IpAddr, port: u16) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: kind(DiscoveryType::Static),
        connect_timeout: Some(duration(LOCAL_CONNECT_TIMEOUT)),
        circuit_breakers: Some(unlimited()),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![lb_endpoint(address, port)],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        ..http(protocol)
    }
}

/// The cluster of captured traffic that goes on to wherever it was going.
pub fn original_destination(name: &str, connect_timeout: Duration) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: kind(DiscoveryType::OriginalDst),
        connect_timeout: Some(duration(connect_timeout)),
        lb_policy: LbPolicy::ClusterProvided.into(),
        circuit_breakers: Some(unlimited()),
        ..http(AppProtocol::Detect)
    }
}

/// Peak EWMA, and what is nearest to it for who does not know it: the first policy that is known counts. Envoy knows the
/// second; gRPC the third alone, and would refuse a cluster that has none.
fn peak_ewma() -> LoadBalancingPolicy {
    let policy = |name: &str, config: Any| load_balancing_policy::Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: format!("envoy.load_balancing_policies.{name}"),
            typed_config: Some(config),
        }),
    };
    LoadBalancingPolicy {
        policies: vec![
            policy("peak_ewma", pack(&PeakEwma::default())),
            policy("least_request", pack(&LeastRequest::default())),
            policy("round_robin", pack(&RoundRobin::default())),
        ],
    }
}

fn kind(kind: DiscoveryType) -> Option<ClusterDiscoveryType> {
    Some(ClusterDiscoveryType::Type(kind.into()))
}

fn unlimited() -> CircuitBreakers {
    CircuitBreakers {
        thresholds: vec![circuit_breakers::Thresholds {
            max_connections: u32_value(NO_LIMIT),
            max_pending_requests: u32_value(NO_LIMIT),
            max_requests: u32_value(NO_LIMIT),
            max_retries: u32_value(NO_LIMIT),
            ..circuit_breakers::Thresholds::default()
        }],
        ..CircuitBreakers::default()
    }
}

/// How HTTP is spoken to the endpoints: HTTP/2 where the service says so, else as the client does.
fn http(protocol: AppProtocol) -> Cluster {
    let upstream = match protocol {
        AppProtocol::Tcp => return Cluster::default(),
        AppProtocol::Http2 => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
        }),
        AppProtocol::Http | AppProtocol::Detect => {
            UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(Http1ProtocolOptions::default()),
                http2_protocol_options: Some(Http2ProtocolOptions::default()),
                ..UseDownstreamHttpConfig::default()
            })
        }
    };
    let options: Any = pack(&HttpProtocolOptions {
        upstream_protocol_options: Some(upstream),
        ..HttpProtocolOptions::default()
    });
    Cluster {
        typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), options)].into(),
        ..Cluster::default()
    }
}
