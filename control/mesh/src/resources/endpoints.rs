//! Endpoint sets.

use std::{collections::BTreeMap, net::IpAddr};

use weft_discovery::model::{Endpoint, EndpointSet, Health, Locality, Service, ServicePort};
use weft_xds::pb::envoy::config::{
    core::v3::{HealthStatus, Locality as PbLocality},
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
};

use super::{socket_address, u32_value};

/// The endpoints of a service's port that may get new requests, by locality.
///
/// What drains is left out, so that nothing new goes there while its connections finish; a service with nothing ready
/// has an empty set, which proxies answer with 503.
pub fn assignment(
    name: &str,
    service: &Service,
    port: &ServicePort,
    endpoints: Option<&EndpointSet>,
) -> ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in endpoints.into_iter().flat_map(|set| &set.endpoints) {
        if gets_requests(endpoint, service)
            && let Some(number) = endpoint.port(&port.name, port.transport)
        {
            let found = lb_endpoint(endpoint.proxy_address(), number);
            localities.entry(&endpoint.locality).or_default().push(found);
        }
    }
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: localities
            .into_iter()
            .map(|(locality, lb_endpoints)| LocalityLbEndpoints {
                locality: Some(PbLocality {
                    zone: locality.zone.clone().unwrap_or_default(),
                    sub_zone: locality.node.clone().unwrap_or_default(),
                    ..PbLocality::default()
                }),
                // Asked for by gRPC, which leaves out a locality without one; proxies look at it only if told to. This one
                // makes all endpoints equal, wherever they are.
                load_balancing_weight: u32_value(u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX)),
                lb_endpoints,
                ..LocalityLbEndpoints::default()
            })
            .collect(),
        ..ClusterLoadAssignment::default()
    }
}

/// Whether proxies are told of the endpoint.
pub fn gets_requests(endpoint: &Endpoint, service: &Service) -> bool {
    match endpoint.health {
        Health::Ready => true,
        Health::Draining => false,
        Health::NotReady => service.publish_not_ready,
    }
}

pub(super) fn lb_endpoint(address: IpAddr, port: u16) -> LbEndpoint {
    LbEndpoint {
        health_status: HealthStatus::Healthy.into(),
        host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
            address: Some(socket_address(address, port)),
            ..PbEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}
