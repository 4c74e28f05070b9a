//! A synthetic mesh.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use weft_discovery::model::{
    AppProtocol, Endpoint, EndpointPort, EndpointSet, Health, Locality, MeshState, Pod, PodId, Service,
    ServiceId, ServiceKind, ServicePort, Transport,
};

/// So many services with the same number of endpoints each, every endpoint a pod.
pub fn mesh(services: usize, endpoints: usize) -> MeshState {
    let each = endpoints / services.max(1);
    let mut state = MeshState { version: 1, ..MeshState::default() };
    let ports: Arc<[EndpointPort]> =
        Arc::new([EndpointPort { name: "http".into(), port: 8080, transport: Transport::Tcp }]);
    let (mut all_services, mut all_endpoints, mut all_pods) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for number in 0..services {
        let id = service_id(number);
        let pods = (number * each..(number + 1) * each).map(pod_id);
        let endpoints: Vec<_> = pods
            .enumerate()
            .map(|(index, pod)| Endpoint {
                address: address(10, number * each + index),
                sidecar: None,
                ports: ports.clone(),
                health: Health::Ready,
                locality: Locality {
                    zone: Some("zone-1".into()),
                    node: Some(format!("node-{}", index % 100)),
                },
                hostname: None,
                pod: Some(pod),
            })
            .collect();
        for endpoint in &endpoints {
            let Some(id) = endpoint.pod.clone() else { continue };
            let pod = Pod {
                uid: id.name.clone(),
                id: id.clone(),
                address: Some(endpoint.address),
                sidecar: None,
                node: endpoint.locality.node.clone(),
                ports: vec![(8080, "http".into())],
                ready: true,
                leaving: false,
                has_sidecar: true,
            };
            all_pods.insert(id, Arc::new(pod));
        }
        let port = ServicePort {
            index: 0,
            name: "http".into(),
            port: 80,
            transport: Transport::Tcp,
            app_protocol: AppProtocol::Http,
        };
        let service = Service {
            id: id.clone(),
            uid: id.name.clone(),
            kind: ServiceKind::Virtual(vec![address(11, number)]),
            ports: vec![port],
            publish_not_ready: false,
            annotations: BTreeMap::new(),
        };
        all_services.insert(id.clone(), Arc::new(service));
        all_endpoints.insert(id, Arc::new(EndpointSet { endpoints }));
    }
    state.services = Arc::new(all_services);
    state.endpoints = Arc::new(all_endpoints);
    state.pods = Arc::new(all_pods);
    state
}

/// The next state: one endpoint of one service became ready or ceased to be.
pub fn change(state: &MeshState, service: usize) -> MeshState {
    let mut next = state.clone();
    next.version += 1;
    let id = service_id(service % state.services.len().max(1));
    if let Some(set) = Arc::make_mut(&mut next.endpoints).get_mut(&id)
        && let Some(endpoint) = Arc::make_mut(set).endpoints.first_mut()
    {
        endpoint.health = match endpoint.health {
            Health::Ready => Health::NotReady,
            _ => Health::Ready,
        };
    }
    next
}

/// The pod of this number.
pub fn pod_id(number: usize) -> PodId {
    PodId::new("default", format!("pod-{number}"))
}

fn service_id(number: usize) -> ServiceId {
    ServiceId::new("default", format!("service-{number}"))
}

fn address(first: u8, number: usize) -> IpAddr {
    let [_, b, c, d] = u32::try_from(number).unwrap_or_default().to_be_bytes();
    Ipv4Addr::new(first, b, c, d).into()
}
