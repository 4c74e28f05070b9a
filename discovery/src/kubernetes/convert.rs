//! Kubernetes objects, reduced to what the mesh needs of them.
//!
//! The API server validates what it stores, but a real cluster's may be newer than we are: whatever cannot be read
//! here is left out, never a failure.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Container, Pod as KubePod, Service as KubeService, ServicePort as KubePort},
    discovery::v1::{Endpoint as KubeEndpoint, EndpointConditions, EndpointSlice},
};

use super::transitions::Phase;
use crate::model::{
    AppProtocol, Endpoint, EndpointPort, Health, Locality, Pod, PodId, Service, ServiceId, ServiceKind,
    ServicePort, Transport,
};

/// The annotation of a pod that says where its sidecar accepts inbound traffic, where that is not the pod's address.
pub const SIDECAR_ADDRESS_ANNOTATION: &str = "weft.dev/sidecar-address";

/// The annotation of a pod that says, with the value `disabled`, that it gets no sidecar.
const INJECT_ANNOTATION: &str = "weft.dev/inject";

/// The annotations of a service that the mesh reads begin so.
const MESH_PREFIX: &str = "weft.dev/";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Who writes a slice, and who that is where it says only what the pods say.
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const FOLLOWS_PODS: &str = "endpointslice-controller.k8s.io";

/// Which EndpointSlice: namespace and name.
pub(super) type SliceId = (String, String);

/// What the mesh needs of an EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slice {
    /// The service that it belongs to.
    pub(super) service: ServiceId,
    /// Its endpoints; where their sidecars are is not known here.
    pub(super) endpoints: Vec<Endpoint>,
    /// Whether the health of its endpoints is nothing but what their pods say.
    pub(super) follows_pods: bool,
}

pub(super) fn service_id(service: &KubeService) -> Option<ServiceId> {
    Some(ServiceId::new(service.metadata.namespace.clone()?, service.metadata.name.clone()?))
}

pub(super) fn service(service: KubeService) -> Arc<Service> {
    let id = service_id(&service).unwrap_or_else(|| ServiceId::new("", ""));
    let spec = service.spec.unwrap_or_default();
    let kind = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
        (Some("ExternalName"), _) => ServiceKind::External(spec.external_name.unwrap_or_default()),
        (_, Some("None")) => ServiceKind::Headless,
        (_, first) => {
            let all = spec.cluster_ips.iter().flatten().map(String::as_str);
            let mut addresses: Vec<IpAddr> =
                first.into_iter().chain(all).filter_map(|ip| ip.parse().ok()).collect();
            // The list repeats the single field as its first element.
            addresses.dedup();
            ServiceKind::Virtual(addresses)
        }
    };
    let annotations = service.metadata.annotations.unwrap_or_default();
    Arc::new(Service {
        id,
        uid: service.metadata.uid.unwrap_or_default(),
        kind,
        ports: spec.ports.iter().flatten().enumerate().filter_map(service_port).collect(),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        annotations: annotations.into_iter().filter(|(key, _)| key.starts_with(MESH_PREFIX)).collect(),
    })
}

fn service_port((index, port): (usize, &KubePort)) -> Option<ServicePort> {
    let number = u16::try_from(port.port).ok()?;
    let name = port.name.clone().unwrap_or_default();
    Some(ServicePort {
        index,
        app_protocol: AppProtocol::of(port.app_protocol.as_deref(), &name, number),
        name,
        port: number,
        transport: transport(port.protocol.as_deref())?,
    })
}

pub(super) fn slice_id(slice: &EndpointSlice) -> Option<SliceId> {
    Some((slice.metadata.namespace.clone()?, slice.metadata.name.clone()?))
}

/// A slice without a service's label yields one for a service without a name, which no one asks for.
pub(super) fn slice(slice: EndpointSlice) -> Slice {
    let namespace = slice.metadata.namespace.unwrap_or_default();
    let mut labels = slice.metadata.labels.unwrap_or_default();
    let name = labels.remove(SERVICE_NAME_LABEL);
    let follows_pods = labels.get(MANAGED_BY_LABEL).is_some_and(|writer| writer == FOLLOWS_PODS);
    let mut ports: Vec<EndpointPort> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(EndpointPort {
                name: port.name.clone().unwrap_or_default(),
                port: u16::try_from(port.port?).ok()?,
                transport: transport(port.protocol.as_deref())?,
            })
        })
        .collect();
    ports.sort();
    let ports: Arc<[EndpointPort]> = ports.into();
    let endpoints = slice.endpoints.iter().filter_map(|found| endpoint(found, &namespace, &ports)).collect();
    Slice { service: ServiceId::new(namespace, name.unwrap_or_default()), endpoints, follows_pods }
}

fn endpoint(endpoint: &KubeEndpoint, namespace: &str, ports: &Arc<[EndpointPort]>) -> Option<Endpoint> {
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    Some(Endpoint {
        // More addresses than the first have no meaning, says the API's definition.
        address: endpoint.addresses.first()?.parse().ok()?,
        sidecar: None,
        ports: ports.clone(),
        health: endpoint.conditions.as_ref().map_or(Health::Ready, health),
        locality: Locality { zone: endpoint.zone.clone(), node: endpoint.node_name.clone() },
        hostname: endpoint.hostname.clone(),
        pod: pod.and_then(|target| {
            Some(PodId::new(target.namespace.as_deref().unwrap_or(namespace), target.name.clone()?))
        }),
    })
}

/// Unknown counts as ready and serving, and as not terminating, as the API's definition asks.
fn health(conditions: &EndpointConditions) -> Health {
    let ready = conditions.ready.unwrap_or(true);
    if conditions.terminating.unwrap_or(false) {
        return if conditions.serving.unwrap_or(ready) { Health::Draining } else { Health::NotReady };
    }
    if ready { Health::Ready } else { Health::NotReady }
}

pub(super) fn pod_id(pod: &KubePod) -> Option<PodId> {
    Some(PodId::new(pod.metadata.namespace.clone()?, pod.metadata.name.clone()?))
}

pub(super) fn pod(pod: KubePod) -> Arc<Pod> {
    let id = pod_id(&pod).unwrap_or_else(|| PodId::new("", ""));
    let Phase { ready, terminating } = Phase::of(&pod);
    let spec = pod.spec.unwrap_or_default();
    let annotation = |key| pod.metadata.annotations.as_ref().and_then(|all| all.get(key));
    let sidecar = annotation(SIDECAR_ADDRESS_ANNOTATION);
    let without_sidecar = annotation(INJECT_ANNOTATION).is_some_and(|value| value == "disabled");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_over = matches!(phase, Some("Succeeded" | "Failed"));
    let sidecar = sidecar.and_then(|ip| ip.parse().ok());
    let mut ports: Vec<(u16, String)> = spec.containers.iter().flat_map(container_ports).collect();
    // Native sidecars (init containers that keep running) serve ports too.
    let lasting =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    ports.extend(lasting.flat_map(container_ports));
    ports.sort();
    ports.dedup_by_key(|(port, _)| *port);
    let address: Option<IpAddr> = pod.status.and_then(|status| status.pod_ip).and_then(|ip| ip.parse().ok());
    Arc::new(Pod {
        id,
        uid: pod.metadata.uid.unwrap_or_default(),
        address,
        sidecar,
        node: spec.node_name,
        ports,
        ready,
        leaving: terminating,
        has_sidecar: address.is_some() && !is_over && !without_sidecar,
    })
}

fn container_ports(container: &Container) -> impl Iterator<Item = (u16, String)> {
    let tcp = container.ports.iter().flatten().filter(|p| p.protocol.as_deref().is_none_or(|p| p == "TCP"));
    tcp.filter_map(|p| Some((u16::try_from(p.container_port).ok()?, p.name.clone().unwrap_or_default())))
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some("SCTP") => Some(Transport::Sctp),
        Some(_) => None,
    }
}
