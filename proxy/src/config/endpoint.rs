//! Compiling endpoint sets.

use std::{net::SocketAddr, sync::Arc};

use weft_xds::pb::envoy::config::{
    core::v3::HealthStatus,
    endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
};

use super::{ConfigError, Path, unsupported, value};
use crate::cluster::endpoint::{HostConfig, Status, Zone};

/// An endpoint whose host may still be a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedHost {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// For the `host` field of requests; empty to keep the client's.
    pub(crate) hostname: String,
    pub(crate) weight: u32,
    pub(crate) status: Status,
    pub(crate) zone: Arc<Zone>,
    path: String,
}

/// Compiles a set of addresses.
pub(crate) fn compile(path: &Path, message: &ClusterLoadAssignment) -> Result<Vec<HostConfig>, ConfigError> {
    named(path, message)?
        .into_iter()
        .map(|host| {
            let ip = host.host.parse().map_err(|_| ConfigError {
                path: host.path.clone(),
                reason: format!("{:?} is not an IP address", host.host),
            })?;
            Ok(HostConfig {
                address: SocketAddr::new(ip, host.port),
                hostname: host.hostname,
                weight: host.weight,
                status: host.status,
                zone: host.zone,
            })
        })
        .collect()
}

/// Compiles a set of names.
pub(crate) fn named(path: &Path, message: &ClusterLoadAssignment) -> Result<Vec<NamedHost>, ConfigError> {
    unsupported!(path, message; named_endpoints);
    if let Some(policy) = &message.policy {
        let path = path.field("policy");
        unsupported!(path, policy; drop_overloads, endpoint_stale_after, weighted_priority_health);
    }
    let mut hosts = Vec::new();
    for (index, locality) in message.endpoints.iter().enumerate() {
        let path = path.item("endpoints", index);
        unsupported!(path, locality; priority, lb_config);
        let zone = locality.locality.as_ref().map_or_else(Zone::default, |locality| Zone {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.sub_zone.clone(),
        });
        let zone = Arc::new(zone);
        for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
            let path = path.item("lb_endpoints", index);
            let inner = match &endpoint.host_identifier {
                Some(HostIdentifier::Endpoint(inner)) => inner,
                Some(HostIdentifier::EndpointName(_)) => {
                    return Err(path.field("endpoint_name").unsupported());
                }
                None => return Err(path.field("endpoint").missing()),
            };
            let status = match HealthStatus::try_from(endpoint.health_status) {
                Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded) => Status::Healthy,
                Ok(HealthStatus::Draining) => Status::Draining,
                Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Status::Unhealthy,
                Err(_) => return Err(path.field("health_status").error("is not a known value")),
            };
            let path = path.field("endpoint");
            unsupported!(path, inner; health_check_config, additional_addresses);
            let address = path.field("address");
            let (address, host, port) = value::host_and_port(&address, inner.address.as_ref())?;
            hosts.push(NamedHost {
                host,
                port,
                hostname: inner.hostname.clone(),
                weight: value::number(endpoint.load_balancing_weight.as_ref(), 1),
                status,
                zone: Arc::clone(&zone),
                path: address.field("address").to_string(),
            });
        }
    }
    Ok(hosts)
}
