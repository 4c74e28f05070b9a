//! Conventions that the node agent and the mesh control share: addresses, ports and names that both must agree on, and
//! nothing that does I/O.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// Pod annotation set by the agent in the process runtime: the address at which the pod's sidecar accepts inbound traffic.
pub const SIDECAR_ADDRESS: &str = "weft.dev/sidecar-address";
/// Node annotation with `host:port` of the admin endpoint of the node's gateway.
pub const GATEWAY_ADMIN: &str = "weft.dev/gateway-admin";
/// Pod condition: True once no proxy sends anything to a pod that is marked for deletion. Set by the mesh control; the agent
/// ends the containers then.
pub const OUT_OF_ROTATION: &str = "weft.dev/OutOfRotation";
/// Service annotation that chooses the balancer: `round-robin` or `peak-ewma`.
pub const BALANCER: &str = "weft.dev/balancer";

/// Port of a sidecar's admin endpoint.
pub const ADMIN_PORT: u16 = 15000;
/// Port to which a pod's outbound TCP is redirected when traffic is captured transparently.
pub const OUTBOUND_CAPTURE_PORT: u16 = 15001;
/// Port to which a pod's inbound TCP is redirected when traffic is captured transparently.
pub const INBOUND_CAPTURE_PORT: u16 = 15006;
/// User id of the sidecar; its own traffic is exempt from capture.
pub const SIDECAR_UID: u32 = 1337;

/// xDS node metadata key that holds a [`TrafficMode`].
pub const METADATA_TRAFFIC: &str = "weft.traffic";
/// xDS node metadata key: the address at which a sidecar in [`TrafficMode::Addressed`] listens.
pub const METADATA_SIDECAR_ADDRESS: &str = "weft.sidecar_address";
/// xDS node metadata key: the address of the pod that the sidecar serves.
pub const METADATA_POD_IP: &str = "weft.pod_ip";
/// xDS node metadata key: the address at which a gateway listens; 127.0.0.1 for one that does not say.
pub const METADATA_LISTEN_ADDRESS: &str = "weft.listen_address";
/// xDS node metadata key: the cluster node on which the proxy runs.
pub const METADATA_NODE: &str = "weft.node";

/// The domain of the names under which gRPC clients find services: `SERVICE.NAMESPACE.svc.cluster.local`.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// The audience of the tokens with which proxies show the mesh control who they are.
pub const XDS_AUDIENCE: &str = "weft-xds";

/// Number of ports of one Service that can be given a distinct outbound port.
pub const MAX_SERVICE_PORTS: usize = 8;

const OUTBOUND_BASE: u32 = 20_000;
const OUTBOUND_STRIDE: u32 = 4096;

/// The port at which a sidecar or gateway listens for one port of a Service in [`TrafficMode::Addressed`].
///
/// Unique per Service and port as long as the service range is no larger than a /20 and a Service has no more than
/// [`MAX_SERVICE_PORTS`] ports; a larger index wraps around, so callers leave out the ports beyond that limit.
pub fn outbound_port(cluster_ip: Ipv4Addr, port_index: usize) -> u16 {
    let service = u32::from(cluster_ip) & (OUTBOUND_STRIDE - 1);
    let index = (port_index % MAX_SERVICE_PORTS) as u32;
    // 20000 + 4095 + 7 * 4096 = 52767, so the sum always fits.
    (OUTBOUND_BASE + service + OUTBOUND_STRIDE * index) as u16
}

/// Which proxy an xDS session belongs to. Its text form is the xDS node id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyId {
    /// The sidecar of one pod: `sidecar~NAMESPACE~POD`.
    Sidecar {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        pod: String,
    },
    /// The gateway of one node, through which the host reaches services: `gateway~~NODE`.
    Gateway {
        /// Name of the cluster node.
        node: String,
    },
    /// A program that finds services with gRPC's own xDS resolver and has no proxy: `grpc~NAMESPACE~NAME`.
    Grpc {
        /// The namespace in which it looks names up that have none.
        namespace: String,
        /// The pod that it runs in, or anything that tells it apart.
        name: String,
    },
}

/// The text is not the id of a Weft proxy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a proxy id, expected sidecar~NAMESPACE~POD, gateway~~NODE or grpc~NAMESPACE~NAME")]
pub struct ParseProxyIdError(String);

/// How traffic of the workload reaches its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrafficMode {
    /// Captured transparently in the pod's network namespace; the original destination is known from the socket.
    Redirect,
    /// The workload calls the proxy's own address; the port tells the destination ([`outbound_port`]).
    Addressed,
}

/// The text is not a traffic mode.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("\"{0}\" is not a traffic mode, expected redirect or addressed")]
pub struct ParseTrafficModeError(String);

// === impl ProxyId ===

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sidecar { namespace, pod } => write!(f, "sidecar~{namespace}~{pod}"),
            Self::Gateway { node } => write!(f, "gateway~~{node}"),
            Self::Grpc { namespace, name } => write!(f, "grpc~{namespace}~{name}"),
        }
    }
}

impl FromStr for ProxyId {
    type Err = ParseProxyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('~').collect();
        match parts.as_slice() {
            ["sidecar", namespace, pod] if !namespace.is_empty() && !pod.is_empty() => {
                Ok(Self::Sidecar { namespace: (*namespace).into(), pod: (*pod).into() })
            }
            ["grpc", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Grpc { namespace: (*namespace).into(), name: (*name).into() })
            }
            ["gateway", "", node] if !node.is_empty() => Ok(Self::Gateway { node: (*node).into() }),
            _ => Err(ParseProxyIdError(text.into())),
        }
    }
}

// === impl TrafficMode ===

impl TrafficMode {
    /// The value under [`METADATA_TRAFFIC`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Addressed => "addressed",
        }
    }
}

impl fmt::Display for TrafficMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TrafficMode {
    type Err = ParseTrafficModeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "redirect" => Ok(Self::Redirect),
            "addressed" => Ok(Self::Addressed),
            _ => Err(ParseTrafficModeError(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn outbound_ports_are_unique_over_a_service_range() {
        let mut seen = HashSet::new();
        for low in 0..4096u32 {
            let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + low);
            for index in 0..MAX_SERVICE_PORTS {
                assert!(seen.insert(outbound_port(ip, index)), "{ip} {index}");
            }
        }
        assert_eq!(outbound_port(Ipv4Addr::new(10, 96, 0, 1), 0), 20_001);
        assert_eq!(outbound_port(Ipv4Addr::new(10, 96, 1, 0), 1), 24_352);
    }

    #[test]
    fn proxy_ids_survive_a_round_trip() {
        for id in [
            ProxyId::Sidecar { namespace: "default".into(), pod: "web-1".into() },
            ProxyId::Gateway { node: "node-a".into() },
            ProxyId::Grpc { namespace: "default".into(), name: "shop-7".into() },
        ] {
            assert_eq!(id.to_string().parse::<ProxyId>().unwrap(), id);
        }
    }

    #[test]
    fn malformed_proxy_ids_are_rejected() {
        for text in [
            "",
            "sidecar",
            "sidecar~~web",
            "sidecar~a~b~c",
            "gateway~x~node",
            "gateway~~",
            "grpc~~x",
            "router~a~b",
        ] {
            assert!(text.parse::<ProxyId>().is_err(), "{text}");
        }
    }

    #[test]
    fn traffic_modes_survive_a_round_trip() {
        for mode in [TrafficMode::Redirect, TrafficMode::Addressed] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("tproxy".parse::<TrafficMode>().is_err());
    }
}
