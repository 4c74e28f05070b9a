//! What one proxy gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tracing::warn;
use weft_api::mesh::{ADMIN_PORT, INBOUND_CAPTURE_PORT, OUTBOUND_CAPTURE_PORT};
use weft_discovery::model::AppProtocol;
use weft_xds::{any::pack, pb::google::protobuf::Any, server::Snapshot};

use crate::{
    catalog::Catalog,
    proxy::ProxyProfile,
    resources::{
        INBOUND, OUTBOUND, PASSTHROUGH, cluster, inbound_name,
        listener::{self, Direction},
        route,
    },
};

const PASSTHROUGH_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const INBOUND_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What belongs to one proxy alone, apart from what the catalog shares among all.
///
/// It changes with services and with the proxy's own pod, not with endpoints, and is kept while only those change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Own {
    listeners: BTreeMap<String, Any>,
    clusters: BTreeMap<String, Any>,
    routes: BTreeMap<String, Any>,
}

// === impl Own ===

impl Own {
    /// Builds what belongs to the proxy `profile` alone.
    pub fn new(catalog: &Catalog, profile: &ProxyProfile) -> Self {
        let mut own = Self::default();
        match profile {
            ProxyProfile::Gateway { listen } => own.outbound(catalog, *listen, &BTreeSet::new()),
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
            ProxyProfile::Redirected { pod, address } => {
                let address = address.or(catalog.state().pods.get(pod).and_then(|pod| pod.address));
                own.captured(address, catalog.inbound_ports(pod));
                own.listeners.extend(catalog.captured_listeners().clone());
            }
        }
        own
    }

    /// Together with what all proxies share.
    pub fn snapshot(&self, catalog: &Catalog) -> Snapshot {
        let both = |own: &BTreeMap<String, Any>, shared: &BTreeMap<String, Any>| {
            let mut all = shared.clone();
            all.extend(own.iter().map(|(name, resource)| (name.clone(), resource.clone())));
            all
        };
        Snapshot {
            listeners: self.listeners.clone(),
            clusters: both(&self.clusters, catalog.clusters()),
            routes: both(&self.routes, catalog.routes()),
            endpoints: catalog.endpoints().clone(),
            ..Snapshot::default()
        }
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
            self.listeners.insert(port.name.clone(), pack(&listener));
        }
    }

    /// One listener per port of the workload, at `listen`.
    fn inbound(&mut self, listen: IpAddr, workload: IpAddr, ports: BTreeMap<u16, AppProtocol>) {
        for (port, protocol) in ports {
            let name = inbound_name(port);
            let listener = listener::port(&name, Direction::Inbound, listen, port, protocol, &name);
            self.listeners.insert(name.clone(), pack(&listener));
            self.clusters.insert(name.clone(), pack(&cluster::workload(&name, protocol, workload, port)));
            if protocol != AppProtocol::Tcp {
                self.routes.insert(name.clone(), pack(&route::workload(&name, &name)));
            }
        }
    }

    /// The listeners of captured connections; those of the workload's ports once its address is known.
    fn captured(&mut self, workload: Option<IpAddr>, ports: BTreeMap<u16, AppProtocol>) {
        let outbound = listener::capture(OUTBOUND, Direction::Outbound, OUTBOUND_CAPTURE_PORT, PASSTHROUGH);
        let inbound = listener::capture(INBOUND, Direction::Inbound, INBOUND_CAPTURE_PORT, INBOUND);
        for listener in [outbound, inbound] {
            self.listeners.insert(listener.name.clone(), pack(&listener));
        }
        for (name, timeout) in
            [(PASSTHROUGH, PASSTHROUGH_CONNECT_TIMEOUT), (INBOUND, INBOUND_CONNECT_TIMEOUT)]
        {
            self.clusters.insert(name.to_owned(), pack(&cluster::original_destination(name, timeout)));
        }
        let Some(workload) = workload else { return };
        for (port, protocol) in ports {
            let name = inbound_name(port);
            let listener =
                listener::captured_port(&name, Direction::Inbound, workload, port, protocol, INBOUND);
            self.listeners.insert(name.clone(), pack(&listener));
            if protocol != AppProtocol::Tcp {
                self.routes.insert(name.clone(), pack(&route::workload(&name, INBOUND)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
