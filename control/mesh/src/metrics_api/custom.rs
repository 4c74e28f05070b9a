//! Which load belongs to which pod and service.

use std::collections::{BTreeMap, HashMap};

use weft_discovery::model::{MeshState, PodId, ServiceId, Transport};

use crate::{
    load::{Load, Loads},
    resources::outbound_name,
};

/// The load of every pod in `namespace` that is an endpoint of a service; a pod that nobody called has none to show,
/// which is a load of zero.
pub(super) fn pods(state: &MeshState, loads: &Loads, namespace: &str) -> BTreeMap<PodId, Load> {
    let by_endpoint = loads.by_endpoint();
    // Several services may name the same port of a pod: its load counts once.
    let mut addresses = HashMap::new();
    for endpoint in state.endpoints.values().flat_map(|set| &set.endpoints) {
        let Some(pod) = endpoint.pod.as_ref().filter(|pod| pod.namespace == namespace) else { continue };
        let found: &mut Vec<_> = addresses.entry(pod.clone()).or_default();
        for port in endpoint.ports.iter().filter(|port| port.transport == Transport::Tcp) {
            let address = (endpoint.proxy_address(), port.port).into();
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    let sum = |addresses: Vec<_>| {
        let loads = addresses.iter().filter_map(|address| by_endpoint.get(address)).copied();
        loads.fold(Load::default(), Load::plus)
    };
    addresses.into_iter().map(|(pod, addresses)| (pod, sum(addresses))).collect()
}

/// The load of every service in `namespace`: the sum over its ports.
pub(super) fn services(state: &MeshState, loads: &Loads, namespace: &str) -> BTreeMap<ServiceId, Load> {
    let by_cluster = loads.by_cluster();
    let of_namespace = state.services.values().filter(|service| service.id.namespace == namespace);
    let sums = of_namespace.map(|service| {
        let tcp = service.ports.iter().filter(|port| port.transport == Transport::Tcp);
        let loads =
            tcp.filter_map(|port| by_cluster.get(outbound_name(&service.id, port.port).as_str()).copied());
        (service.id.clone(), loads.fold(Load::default(), Load::plus))
    });
    sums.collect()
}
