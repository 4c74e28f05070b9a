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
    catalog::{Catalog, Changes, OutboundPort},
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
/// It changes with the proxy's own pod and, for those that are called at their own address, with the services that change;
/// not with endpoints.
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
            ProxyProfile::Gateway { listen } => {
                own.outbound(catalog.ports(), *listen, &BTreeSet::new());
            }
            ProxyProfile::Grpc { namespace } => {
                for port in catalog.ports() {
                    own.called(namespace, port);
                }
            }
            ProxyProfile::Addressed { pod, workload, .. } => {
                // Without an address there is nothing to listen at yet; the pod's state will bring it.
                if let Some(listen) = listen_address(catalog, profile) {
                    let known = catalog.state().pods.get(pod);
                    if let Some(workload) = workload.or(known.and_then(|pod| pod.address)) {
                        let mut ports = catalog.inbound_ports(pod);
                        if ports.remove(&ADMIN_PORT).is_some() {
                            warn!(%pod, port = ADMIN_PORT, "the sidecar's admin endpoint has this port, it stays unreachable");
                        }
                        own.inbound(listen, workload, ports);
                    }
                    own.outbound(catalog.ports(), listen, &taken(catalog, profile));
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

    /// Follows a change of services, with `catalog` as it is since; only what belongs to ports that changed is built anew.
    /// Tells whether that changed anything. A change of the proxy's own pod needs a [`new`](Self::new) one.
    pub fn follow(&mut self, catalog: &Catalog, profile: &ProxyProfile, changes: &Changes) -> bool {
        let (gone, new) = (&changes.gone, changes.new.iter());
        match profile {
            ProxyProfile::Grpc { namespace } => {
                let mut differs = false;
                for name in gone.iter().flat_map(|port| api::names(namespace, port)) {
                    differs |= self.layer.get_mut(ResourceType::Listener).remove(&name);
                }
                new.fold(differs, |differs, port| self.called(namespace, port) | differs)
            }
            ProxyProfile::Gateway { .. } | ProxyProfile::Addressed { .. } => {
                let Some(listen) = listen_address(catalog, profile) else { return false };
                let mut differs = false;
                for port in gone {
                    differs |= self.layer.get_mut(ResourceType::Listener).remove(&port.name);
                }
                self.outbound(new, listen, &taken(catalog, profile)) | differs
            }
            // It has the listeners that all share.
            ProxyProfile::Redirected { .. } => false,
        }
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

    fn put(&mut self, type_: ResourceType, name: &str, body: &Any) -> bool {
        self.layer.get_mut(type_).insert(Arc::new(VersionedResource::new(name, body)))
    }

    /// One listener per name that a program in `namespace` has for the port of a service.
    fn called(&mut self, namespace: &str, port: &OutboundPort) -> bool {
        if port.protocol == AppProtocol::Tcp {
            return false;
        }
        api::names(namespace, port).iter().fold(false, |differs, called| {
            self.put(ResourceType::Listener, called, &pack(&api::listener(called, &port.name))) | differs
        })
    }

    /// One listener per port of services, at `listen`, where the port is not `taken` by something else. Tells whether
    /// that changed anything.
    fn outbound<'p>(
        &mut self,
        ports: impl Iterator<Item = &'p OutboundPort>,
        listen: IpAddr,
        taken: &BTreeSet<u16>,
    ) -> bool {
        let mut differs = false;
        for port in ports {
            let Some(number) = port.addressed else { continue };
            if taken.contains(&number) {
                warn!(service = port.name, port = number, address = %listen, "the workload uses the port of this service, which it cannot reach");
                continue;
            }
            let listener =
                listener::port(&port.name, Direction::Outbound, listen, number, port.protocol, &port.name);
            differs |= self.put(ResourceType::Listener, &port.name, &pack(&listener));
        }
        differs
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

/// Where a proxy listens for services, if it does at an address of its own and that is known.
fn listen_address(catalog: &Catalog, profile: &ProxyProfile) -> Option<IpAddr> {
    match profile {
        ProxyProfile::Gateway { listen } => Some(*listen),
        ProxyProfile::Addressed { pod, listen, .. } => {
            listen.or(catalog.state().pods.get(pod).and_then(|pod| pod.sidecar))
        }
        ProxyProfile::Grpc { .. } | ProxyProfile::Redirected { .. } => None,
    }
}

/// The ports there that are not for services.
fn taken(catalog: &Catalog, profile: &ProxyProfile) -> BTreeSet<u16> {
    let ProxyProfile::Addressed { pod, workload, .. } = profile else { return BTreeSet::new() };
    let mut taken = BTreeSet::from([ADMIN_PORT]);
    // Without an address of the workload nothing is listened at for it.
    if workload.or(catalog.state().pods.get(pod).and_then(|pod| pod.address)).is_some() {
        taken.extend(catalog.inbound_ports(pod).into_keys());
    }
    taken
}

#[cfg(test)]
mod tests;
