//! Compiling endpoint sets.

use std::{net::SocketAddr, sync::Arc};

use weft_xds::pb::envoy::config::{
    core::v3::HealthStatus,
    endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
};

use super::{ConfigError, Path, labels, unsupported, value};
use crate::balance::Labels;
use crate::cluster::endpoint::{EndpointSet, HostConfig, OVERPROVISIONING, Status, Zone};

/// An endpoint whose host may still be a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedHost {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// For the `host` field of requests; empty to keep the client's.
    pub(crate) hostname: String,
    pub(crate) weight: u32,
    pub(crate) status: Status,
    pub(crate) priority: u32,
    pub(crate) zone: Arc<Zone>,
    pub(crate) locality_weight: u32,
    pub(crate) labels: Arc<Labels>,
    path: String,
}

/// Endpoints with what is said of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assignment<H> {
    pub(crate) hosts: Vec<H>,
    /// In percent.
    pub(crate) overprovisioning: u32,
}

/// Envoy's highest priority.
const MAX_PRIORITY: u32 = 128;

/// Compiles a set of addresses; those of `before` that stay keep their state.
pub(crate) fn compile(
    path: &Path,
    message: &ClusterLoadAssignment,
    before: &EndpointSet,
) -> Result<EndpointSet, ConfigError> {
    let assignment = named(path, message)?;
    let hosts = assignment
        .hosts
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
                priority: host.priority,
                zone: host.zone,
                locality_weight: host.locality_weight,
                labels: host.labels,
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(EndpointSet::new(&hosts, before).with_overprovisioning(assignment.overprovisioning))
}

/// Compiles a set of names.
pub(crate) fn named(
    path: &Path,
    message: &ClusterLoadAssignment,
) -> Result<Assignment<NamedHost>, ConfigError> {
    unsupported!(path, message; named_endpoints);
    let mut overprovisioning = OVERPROVISIONING;
    if let Some(policy) = &message.policy {
        let path = path.field("policy");
        unsupported!(path, policy; drop_overloads, endpoint_stale_after, weighted_priority_health);
        overprovisioning = value::number(policy.overprovisioning_factor.as_ref(), OVERPROVISIONING);
        if overprovisioning == 0 {
            return Err(path.field("overprovisioning_factor").error("must be at least 1"));
        }
    }
    let mut hosts = Vec::new();
    for (index, locality) in message.endpoints.iter().enumerate() {
        let path = path.item("endpoints", index);
        unsupported!(path, locality; lb_config);
        if locality.priority > MAX_PRIORITY {
            return Err(path.field("priority").error(format!("must be at most {MAX_PRIORITY}")));
        }
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
            let labels = labels::labels(&path.field("metadata"), endpoint.metadata.as_ref())?;
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
                priority: locality.priority,
                zone: Arc::clone(&zone),
                locality_weight: value::number(locality.load_balancing_weight.as_ref(), 0),
                labels: Arc::new(labels),
                path: address.field("address").to_string(),
            });
        }
    }
    Ok(Assignment { hosts, overprovisioning })
}
