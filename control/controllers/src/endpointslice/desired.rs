//! Which endpoints a Service should have.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Container, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::pods;

/// Endpoints by the ports that they serve, and within by address. Pods of one Service can differ in their ports: a
/// named target port is whatever number the pod gives that name.
pub(super) type Desired = BTreeMap<Vec<PortKey>, BTreeMap<String, Endpoint>>;

/// A port in a form that has an order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortKey {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) port: i32,
    pub(super) app_protocol: Option<String>,
}

/// What the Service should have, given the pods that it selects. `zone` tells the zone of a node.
pub(super) fn desired<'a>(
    service: &Service,
    pods: impl IntoIterator<Item = &'a Pod>,
    zone: impl Fn(&str) -> Option<String>,
) -> Desired {
    let mut desired = Desired::new();
    for pod in pods {
        let Some(address) = address(pod).filter(|_| !pods::is_terminal(pod)) else { continue };
        let ports = ports(service, pod);
        desired.entry(ports).or_default().insert(address.to_owned(), endpoint(service, pod, address, &zone));
    }
    desired
}

/// Whether the Service has its endpoints from this controller: it selects pods, and is more than a name.
pub(super) fn is_managed(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
        && spec.and_then(|spec| spec.type_.as_deref()) != Some("ExternalName")
}

/// Whether the Service has no address of its own.
pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The IPv4 address of the pod.
fn address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let several = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = several.chain(status.pod_ip.as_deref());
    all.find(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok())
}

fn endpoint(service: &Service, pod: &Pod, address: &str, zone: &impl Fn(&str) -> Option<String>) -> Endpoint {
    let spec = service.spec.as_ref();
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let regardless = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let node = Some(pods::node(pod)).filter(|node| !node.is_empty());
    let pod_spec = pod.spec.as_ref();
    let hostname = pod_spec.and_then(|spec| spec.hostname.clone()).filter(|hostname| !hostname.is_empty());
    let subdomain = pod_spec.and_then(|spec| spec.subdomain.as_ref());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(regardless || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname.filter(|_| subdomain == service.metadata.name.as_ref()),
        node_name: node.map(str::to_owned),
        zone: node.and_then(zone),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The ports that the pod serves for the Service. A named port that the pod does not have is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<PortKey> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let key = |port: &ServicePort| {
        Some(PortKey {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_ref()),
            port: target(port, pod)?,
            app_protocol: port.app_protocol.clone(),
        })
    };
    let mut ports: Vec<_> = ports.into_iter().flatten().filter_map(key).collect();
    ports.sort();
    ports
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
            let containers =
                spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            let matches = ports.find(|candidate| {
                candidate.name.as_deref() == Some(name)
                    && protocol(candidate.protocol.as_ref()) == protocol(port.protocol.as_ref())
            });
            matches.map(|found| found.container_port)
        }
    }
}

fn protocol(protocol: Option<&String>) -> String {
    protocol.cloned().unwrap_or_else(|| "TCP".to_owned())
}

// === impl PortKey ===

impl PortKey {
    /// The key of a port of a slice.
    pub(super) fn of(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_ref()),
            port: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        }
    }

    /// The port for a slice.
    pub(super) fn to_port(&self) -> EndpointPort {
        EndpointPort {
            name: Some(self.name.clone()),
            protocol: Some(self.protocol.clone()),
            port: Some(self.port),
            app_protocol: self.app_protocol.clone(),
        }
    }
}
