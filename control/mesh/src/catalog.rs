//! The resources that all proxies share, one set per port of a service.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::SystemTime,
};

use weft_api::mesh::{MAX_SERVICE_PORTS, outbound_port};
use weft_discovery::model::{
    AppProtocol, EndpointSet, MeshState, Pod, PodId, Service, ServiceId, ServicePort, Transport,
};
use weft_xds::{
    ResourceType,
    any::pack,
    pb::google::protobuf::Any,
    session::{Layer, VersionedResource},
};

use crate::{
    policy::{PolicyProblem, ServicePolicy},
    resources::{cluster, endpoints, listener, listener::Direction, outbound_name, route},
};

/// What all proxies share, kept in step with the mesh's state; only services that changed are built anew.
///
/// Canonical is `services`; `resources` and `inbound` follow from it.
#[derive(Debug, Default)]
pub struct Catalog {
    services: BTreeMap<ServiceId, Entry>,
    /// Listeners are those that get captured connections to the virtual addresses of services.
    resources: Layer,
    /// What services say about the ports of the pods behind them.
    inbound: BTreeMap<PodId, BTreeMap<(u16, ServiceId), AppProtocol>>,
    state: Arc<MeshState>,
}

/// A port of a service that proxies carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundPort {
    /// Of its cluster, its route, its listener at a proxy's own address, and its statistics.
    pub name: String,
    /// The virtual address of the service.
    pub address: Ipv4Addr,
    /// The port of the service.
    pub port: u16,
    /// Where a proxy listens for it that is called at its own address; none beyond the ports that have one.
    pub addressed: Option<u16>,
    /// What is spoken.
    pub protocol: AppProtocol,
    /// Whether it is the service's only one, and so need not be named.
    pub only: bool,
}

/// What an update changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Listeners, clusters or routes of services.
    pub services: bool,
    /// Ports of services that are carried no more, or not as they were.
    pub gone: Vec<OutboundPort>,
    /// Ports of services that are new, or otherwise than they were.
    pub new: Vec<OutboundPort>,
    /// Endpoint sets of services.
    pub endpoints: bool,
    /// Pods about which something changed that concerns their own proxy.
    pub pods: BTreeSet<PodId>,
    /// What cannot be followed in the services that changed.
    pub problems: Vec<(Arc<Service>, PolicyProblem)>,
}

/// What was built for a service, and from what.
#[derive(Debug)]
struct Entry {
    service: Arc<Service>,
    endpoints: Option<Arc<EndpointSet>>,
    ports: Vec<OutboundPort>,
}

// === impl OutboundPort ===

impl OutboundPort {
    /// Where callers connect to, which is also the name of the listener for captured connections: a proxy that knows
    /// nothing but where a connection was going can ask for it.
    pub fn destination(&self) -> String {
        SocketAddrV4::new(self.address, self.port).to_string()
    }
}

// === impl Catalog ===

impl Catalog {
    /// Brings the resources in step with `state` and tells what that changed.
    pub fn update(&mut self, state: Arc<MeshState>) -> Changes {
        let mut changes = Changes::default();
        let before = self.state.clone();
        // Endpoints are looked at first: what changes with the service too is then built with the new ones.
        for (id, _, now) in differences(&before.endpoints, &state.endpoints) {
            let caused_at = state.recent.get(id).copied();
            self.rebuild_endpoints(id, now, caused_at, &mut changes);
        }
        let services = differences(&before.services, &state.services);
        // Those that are gone first: another may have their address by now.
        for (id, ..) in services.iter().filter(|(_, _, now)| now.is_none()) {
            if let Some(entry) = self.services.remove(id) {
                self.replaced(Some(&entry), None, &mut changes);
            }
        }
        for (id, _, service) in services {
            let Some(service) = service else { continue };
            let old = self.services.remove(id);
            let new = self.build(service, state.endpoints.get(id), &mut changes);
            self.replaced(old.as_ref(), Some(&new), &mut changes);
            self.services.insert(id.clone(), new);
        }
        self.pods_that_differ(&state, &mut changes);
        self.state = state;
        changes
    }

    /// What all proxies share, each by the name of the service's port. Its listeners are only for proxies that get
    /// captured connections: they are those to the virtual addresses of services.
    pub fn resources(&self) -> &Layer {
        &self.resources
    }

    /// The ports of all services that proxies carry.
    pub fn ports(&self) -> impl Iterator<Item = &OutboundPort> {
        self.services.values().flat_map(|entry| &entry.ports)
    }

    /// The state that this was built from.
    pub fn state(&self) -> &Arc<MeshState> {
        &self.state
    }

    /// The inbound ports of a pod: those that its containers declare and those that services send to.
    pub fn inbound_ports(&self, pod: &PodId) -> BTreeMap<u16, AppProtocol> {
        let mut ports = BTreeMap::new();
        for ((port, _), protocol) in self.inbound.get(pod).into_iter().flatten() {
            // Where services disagree, what interferes least is right for all of them.
            let found = ports.entry(*port).or_insert(*protocol);
            *found = (*found).max(*protocol);
        }
        for (port, name) in self.state.pods.get(pod).map(|pod| pod.ports.as_slice()).unwrap_or_default() {
            ports.entry(*port).or_insert_with(|| AppProtocol::of(None, name, *port));
        }
        ports
    }

    fn build(
        &mut self,
        service: &Arc<Service>,
        endpoints: Option<&Arc<EndpointSet>>,
        changes: &mut Changes,
    ) -> Entry {
        let (policy, problems) = ServicePolicy::from_annotations(&service.annotations);
        changes.problems.extend(problems.into_iter().map(|problem| (service.clone(), problem)));
        let ports: Vec<OutboundPort> = outbound_ports(service).collect();
        for port in &ports {
            let OutboundPort { name, address, protocol, .. } = port;
            self.put(ResourceType::Cluster, name, &pack(&cluster::service(name, *protocol, &policy)));
            let address = (*address).into();
            let mut captured =
                listener::captured_port(name, Direction::Outbound, address, port.port, *protocol, name);
            captured.name = port.destination();
            self.put(ResourceType::Listener, &captured.name, &pack(&captured));
            if *protocol != AppProtocol::Tcp {
                self.put(ResourceType::RouteConfiguration, name, &pack(&route::service(name, &policy)));
            }
        }
        let entry = Entry { service: service.clone(), endpoints: endpoints.cloned(), ports };
        changes.endpoints |= put_endpoints(&mut self.resources, &entry, None);
        entry
    }

    fn rebuild_endpoints(
        &mut self,
        id: &ServiceId,
        endpoints: Option<&Arc<EndpointSet>>,
        caused_at: Option<SystemTime>,
        changes: &mut Changes,
    ) {
        let Some(entry) = self.services.get_mut(id) else { return };
        let before = inbound_of(entry);
        entry.endpoints = endpoints.cloned();
        follow_inbound(&mut self.inbound, id, &before, &inbound_of(entry), changes);
        changes.endpoints |= put_endpoints(&mut self.resources, entry, caused_at);
    }

    fn put(&mut self, type_: ResourceType, name: &str, body: &Any) {
        self.resources.get_mut(type_).insert(Arc::new(VersionedResource::new(name, body)));
    }

    /// A service was built anew, is new or gone: takes out what it does not have any more, and tells what that means.
    fn replaced(&mut self, old: Option<&Entry>, new: Option<&Entry>, changes: &mut Changes) {
        changes.services = true;
        let ports = |entry: Option<&Entry>| entry.map(|entry| entry.ports.clone()).unwrap_or_default();
        let (before, now) = (ports(old), ports(new));
        for port in &before {
            let named = now.iter().find(|candidate| candidate.name == port.name);
            for type_ in ResourceType::ALL {
                // What has the name still is new already, but for the routes that opaque bytes have none of.
                let stays = named.is_some_and(|named| {
                    type_ != ResourceType::RouteConfiguration || named.protocol != AppProtocol::Tcp
                });
                if !stays {
                    self.resources.get_mut(type_).remove(&port.name);
                }
            }
            if !now.iter().any(|candidate| candidate.destination() == port.destination()) {
                self.resources.get_mut(ResourceType::Listener).remove(&port.destination());
            }
        }
        changes.gone.extend(before.iter().filter(|port| !now.contains(port)).cloned());
        changes.new.extend(now.iter().filter(|port| !before.contains(port)).cloned());
        if let Some(entry) = new.or(old) {
            let inbound = |entry: Option<&Entry>| entry.map(inbound_of).unwrap_or_default();
            follow_inbound(&mut self.inbound, &entry.service.id, &inbound(old), &inbound(new), changes);
        }
    }

    fn pods_that_differ(&self, state: &MeshState, changes: &mut Changes) {
        // Whether a pod is ready is told to others, as its endpoints; its own proxy does not care.
        let concerns = |pod: Option<&Arc<Pod>>| pod.map(|pod| (pod.address, pod.sidecar, pod.ports.clone()));
        let differ = differences(&self.state.pods, &state.pods);
        let differ = differ.into_iter().filter(|(_, old, new)| concerns(*old) != concerns(*new));
        changes.pods.extend(differ.map(|(id, ..)| id.clone()));
    }
}

/// A key, its value before and its value now.
type Difference<'a, K, V> = (&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// What differs between two maps of which one comes from the other. Costs one pass over both without looking at what
/// they share, and nothing if they are the same.
fn differences<'a, K: Ord, V>(
    before: &'a Arc<BTreeMap<K, Arc<V>>>,
    now: &'a Arc<BTreeMap<K, Arc<V>>>,
) -> Vec<Difference<'a, K, V>> {
    let mut found = Vec::new();
    if Arc::ptr_eq(before, now) {
        return found;
    }
    let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((one, _)), Some((other, _))) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return found,
        };
        let one = if order.is_le() { old.next() } else { None };
        let other = if order.is_ge() { new.next() } else { None };
        match (one, other) {
            (Some((_, one)), Some((_, other))) if Arc::ptr_eq(one, other) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => {
                found.push((key, one.map(|(_, value)| value), other.map(|(_, value)| value)));
            }
            (None, None) => return found,
        }
    }
}

/// Builds the endpoint sets of a service; tells whether any differs from what is there.
fn put_endpoints(resources: &mut Layer, entry: &Entry, caused_at: Option<SystemTime>) -> bool {
    let mut differs = false;
    for (name, port) in carried(&entry.service) {
        let assignment =
            pack(&endpoints::assignment(&name, &entry.service, port, entry.endpoints.as_deref()));
        // What changed may not matter to anybody: an endpoint that is not ready yet, say.
        let resource = Arc::new(VersionedResource::caused(&name, &assignment, caused_at));
        differs |= resources.get_mut(ResourceType::ClusterLoadAssignment).insert(resource);
    }
    differs
}

type Inbound = BTreeMap<PodId, BTreeMap<(u16, ServiceId), AppProtocol>>;
/// What one service says about the ports of the pods behind it.
type InboundOf = BTreeMap<(PodId, u16), AppProtocol>;

/// Brings what `service` says in step, which was `before` and is `now`; only pods for which that differs are concerned.
fn follow_inbound(
    inbound: &mut Inbound,
    service: &ServiceId,
    before: &InboundOf,
    now: &InboundOf,
    changes: &mut Changes,
) {
    for ((pod, port), _) in before.iter().filter(|(key, protocol)| now.get(key) != Some(protocol)) {
        if let Some(ports) = inbound.get_mut(pod) {
            ports.remove(&(*port, service.clone()));
            if ports.is_empty() {
                inbound.remove(pod);
            }
        }
        changes.pods.insert(pod.clone());
    }
    for ((pod, port), protocol) in now.iter().filter(|(key, protocol)| before.get(key) != Some(protocol)) {
        inbound.entry(pod.clone()).or_default().insert((*port, service.clone()), *protocol);
        changes.pods.insert(pod.clone());
    }
}

fn inbound_of(entry: &Entry) -> InboundOf {
    let endpoints = entry.endpoints.iter().flat_map(|set| &set.endpoints);
    let of_pods = endpoints.filter_map(|endpoint| Some((endpoint, endpoint.pod.as_ref()?)));
    of_pods
        .flat_map(|(endpoint, pod)| {
            let ports = entry.service.ports.iter().filter(|port| port.transport == Transport::Tcp);
            ports.filter_map(|port| {
                let number = endpoint.port(&port.name, port.transport)?;
                Some(((pod.clone(), number), port.app_protocol))
            })
        })
        .collect()
}

fn outbound_ports(service: &Service) -> impl Iterator<Item = OutboundPort> {
    let address = virtual_address(service);
    let only = carried(service).count() == 1;
    let of_port = move |(name, port): (String, &ServicePort)| {
        let address = address?;
        Some(OutboundPort {
            name,
            address,
            port: port.port,
            addressed: (port.index < MAX_SERVICE_PORTS).then(|| outbound_port(address, port.index)),
            protocol: port.app_protocol,
            only,
        })
    };
    carried(service).filter_map(of_port)
}

/// The ports that proxies carry: TCP, of services with a virtual IPv4 address; each with the name of what belongs to it.
pub(crate) fn carried(service: &Service) -> impl Iterator<Item = (String, &ServicePort)> {
    let has_address = virtual_address(service).is_some();
    let tcp = service.ports.iter().filter(move |port| has_address && port.transport == Transport::Tcp);
    tcp.map(|port| (outbound_name(&service.id, port.port), port))
}

fn virtual_address(service: &Service) -> Option<Ipv4Addr> {
    service.virtual_addresses().iter().find_map(|address| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
pub(crate) mod tests;
