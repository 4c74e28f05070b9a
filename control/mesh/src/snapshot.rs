//! What one proxy gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tracing::warn;
use weft_api::mesh::{ADMIN_PORT, INBOUND_CAPTURE_PORT, OUTBOUND_CAPTURE_PORT};
use weft_discovery::model::AppProtocol;
use weft_xds::{
    ResourceType,
    any::pack,
    pb::google::protobuf::Any,
    server,
    session::{Layer, VersionedResource},
};

use crate::{
    catalog::Catalog,
    proxy::ProxyProfile,
    resources::{
        INBOUND, OUTBOUND, PASSTHROUGH, api, cluster, inbound_name,
        listener::{self, Direction},
        route,
    },
};

const PASSTHROUGH_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const INBOUND_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The types of which a proxy gets what all share, if it does not get captured connections.
const SHARED: &[ResourceType] =
    &[ResourceType::Cluster, ResourceType::ClusterLoadAssignment, ResourceType::RouteConfiguration];
/// The same of one that does.
const SHARED_BY_CAPTURING: &[ResourceType] = &[
    ResourceType::Cluster,
    ResourceType::ClusterLoadAssignment,
    ResourceType::Listener,
    ResourceType::RouteConfiguration,
];

/// Of one that asks for a service when it is first called: what it asks for by name anyhow, and what it does not.
const SHARED_ON_DEMAND: &[ResourceType] =
    &[ResourceType::ClusterLoadAssignment, ResourceType::RouteConfiguration];
const ON_REQUEST: &[ResourceType] = &[ResourceType::Cluster, ResourceType::Listener];

/// What belongs to one proxy alone, apart from what the catalog shares among all.
///
/// It changes with the proxy's own pod and, for those that are called at their own address, with services; not with
/// endpoints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    layer: Layer,
    outbound: Outbound,
}

/// How a proxy gets what its workload sends, and so what it gets of what all share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Outbound {
    /// At an address of its own, with a listener for each service.
    #[default]
    Addressed,
    /// By capture, knowing all services.
    Captured,
    /// By capture, asking for a service when it is first called.
    OnDemand,
}

// === impl Own ===

impl Own {
    /// Builds what belongs to the proxy `profile` alone.
    pub fn new(catalog: &Catalog, profile: &ProxyProfile) -> Self {
        let mut own = Self::default();
        match profile {
            ProxyProfile::Gateway { listen } => own.outbound(catalog, *listen, &BTreeSet::new()),
            ProxyProfile::Grpc { namespace } => {
                for port in catalog.ports().filter(|port| port.protocol != AppProtocol::Tcp) {
                    for called in api::names(namespace, port) {
                        own.put(ResourceType::Listener, &called, &pack(&api::listener(&called, &port.name)));
                    }
                }
            }
            ProxyProfile::Addressed { pod, listen, workload } => {
                let known = catalog.state().pods.get(pod);
                let listen = listen.or(known.and_then(|pod| pod.sidecar));
                let workload = workload.or(known.and_then(|pod| pod.address));
                // Without an address there is nothing to listen at yet; the pod's state will bring it.
                if let Some(listen) = listen {
                    let mut taken = BTreeSet::from([ADMIN_PORT]);
                    if let Some(workload) = workload {
                        let mut ports = catalog.inbound_ports(pod);
                        if ports.remove(&ADMIN_PORT).is_some() {
                            warn!(%pod, port = ADMIN_PORT, "the sidecar's admin endpoint has this port, it stays unreachable");
                        }
                        taken.extend(ports.keys());
                        own.inbound(listen, workload, ports);
                    }
                    own.outbound(catalog, listen, &taken);
                }
            }
            ProxyProfile::Redirected { pod, address, on_demand } => {
                let address = address.or(catalog.state().pods.get(pod).and_then(|pod| pod.address));
                own.outbound = if *on_demand { Outbound::OnDemand } else { Outbound::Captured };
                own.captured(address, catalog.inbound_ports(pod));
            }
        }
        own
    }

    /// As it is given to the server.
    pub fn to_server(&self) -> server::Own {
        let (shares, on_request) = match self.outbound {
            Outbound::Addressed => (SHARED, &[][..]),
            Outbound::Captured => (SHARED_BY_CAPTURING, &[][..]),
            Outbound::OnDemand => (SHARED_ON_DEMAND, ON_REQUEST),
        };
        server::Own { layer: self.layer.clone(), shares, on_request }
    }

    fn put(&mut self, type_: ResourceType, name: &str, body: &Any) {
        self.layer.get_mut(type_).insert(Arc::new(VersionedResource::new(name, body)));
    }

    /// One listener per port of every service, at `listen`, where the port is not `taken` by something else.
    fn outbound(&mut self, catalog: &Catalog, listen: IpAddr, taken: &BTreeSet<u16>) {
        for port in catalog.ports() {
            let Some(number) = port.addressed else { continue };
            if taken.contains(&number) {
                warn!(service = port.name, port = number, address = %listen, "the workload uses the port of this service, which it cannot reach");
                continue;
            }
            let listener =
                listener::port(&port.name, Direction::Outbound, listen, number, port.protocol, &port.name);
            self.put(ResourceType::Listener, &port.name, &pack(&listener));
        }
    }

    /// One listener per port of the workload, at `listen`.
    fn inbound(&mut self, listen: IpAddr, workload: IpAddr, ports: BTreeMap<u16, AppProtocol>) {
        for (port, protocol) in ports {
            let name = inbound_name(port);
            let listener = listener::port(&name, Direction::Inbound, listen, port, protocol, &name);
            self.put(ResourceType::Listener, &name, &pack(&listener));
            self.put(
                ResourceType::Cluster,
                &name,
                &pack(&cluster::workload(&name, protocol, workload, port)),
            );
            if protocol != AppProtocol::Tcp {
                self.put(ResourceType::RouteConfiguration, &name, &pack(&route::workload(&name, &name)));
            }
        }
    }

    /// The listeners of captured connections; those of the workload's ports once its address is known.
    fn captured(&mut self, workload: Option<IpAddr>, ports: BTreeMap<u16, AppProtocol>) {
        let mut outbound =
            listener::capture(OUTBOUND, Direction::Outbound, OUTBOUND_CAPTURE_PORT, PASSTHROUGH);
        if self.outbound == Outbound::OnDemand {
            outbound.metadata = Some(listener::on_demand());
        }
        let inbound = listener::capture(INBOUND, Direction::Inbound, INBOUND_CAPTURE_PORT, INBOUND);
        for listener in [outbound, inbound] {
            self.put(ResourceType::Listener, &listener.name, &pack(&listener));
        }
        for (name, timeout) in
            [(PASSTHROUGH, PASSTHROUGH_CONNECT_TIMEOUT), (INBOUND, INBOUND_CONNECT_TIMEOUT)]
        {
            self.put(ResourceType::Cluster, name, &pack(&cluster::original_destination(name, timeout)));
        }
        let Some(workload) = workload else { return };
        for (port, protocol) in ports {
            let name = inbound_name(port);
            let listener =
                listener::captured_port(&name, Direction::Inbound, workload, port, protocol, INBOUND);
            self.put(ResourceType::Listener, &name, &pack(&listener));
            if protocol != AppProtocol::Tcp {
                self.put(ResourceType::RouteConfiguration, &name, &pack(&route::workload(&name, INBOUND)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
