//! An endpoint that a request insists on, past the balancer.

use std::{net::SocketAddr, sync::Arc};

use crate::cluster::{
    Cluster,
    endpoint::{Endpoint, Host, Status},
};

/// In which state an endpoint may be for a request that insists on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overridable {
    pub(crate) healthy: bool,
    pub(crate) draining: bool,
    pub(crate) unhealthy: bool,
}

/// The endpoint of the cluster at this address, if it may be used.
pub(crate) fn pinned(cluster: &Cluster, address: SocketAddr) -> Option<Arc<Endpoint>> {
    let set = cluster.endpoints.load();
    let host = set.find(address).filter(|host| cluster.balancing.overridable.allows(host))?;
    Some(Arc::clone(&host.endpoint))
}

// === impl Overridable ===

impl Overridable {
    fn allows(self, host: &Host) -> bool {
        // As in Envoy, what was found by ourselves comes before what discovery says.
        match host.status {
            _ if !host.endpoint.is_fit() => self.unhealthy,
            Status::Healthy => self.healthy,
            Status::Draining => self.draining,
            Status::Unhealthy => self.unhealthy,
        }
    }
}

impl Default for Overridable {
    fn default() -> Self {
        Self { healthy: true, draining: false, unhealthy: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::endpoint::{EndpointSet, HostConfig};

    #[test]
    fn an_endpoint_is_used_in_the_states_that_are_allowed() {
        let host = |port, status| HostConfig { status, ..HostConfig::plain(([10, 0, 0, 1], port).into()) };
        let configs = [host(1, Status::Healthy), host(2, Status::Draining), host(3, Status::Healthy)];
        let set = EndpointSet::new(&configs, &EndpointSet::default());
        set.hosts[2].endpoint.set_failing_checks(true);
        let allowed = |overridable: Overridable| {
            [1, 2, 3]
                .map(|port| overridable.allows(set.find(([10, 0, 0, 1], port).into()).expect("it is there")))
        };
        assert_eq!(allowed(Overridable::default()), [true, false, false]);
        let draining = Overridable { healthy: false, draining: true, unhealthy: false };
        assert_eq!(allowed(draining), [false, true, false]);
        assert_eq!(allowed(Overridable { unhealthy: true, ..draining }), [false, true, true]);
    }
}
