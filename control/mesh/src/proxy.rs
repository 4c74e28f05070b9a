//! Which proxy asks, and how traffic reaches it.

use std::net::{IpAddr, Ipv4Addr};

use weft_api::mesh::{
    METADATA_LISTEN_ADDRESS, METADATA_POD_IP, METADATA_SIDECAR_ADDRESS, METADATA_TRAFFIC, ParseProxyIdError,
    ParseTrafficModeError, ProxyId, TrafficMode,
};
use weft_discovery::model::PodId;
use weft_xds::{
    FEATURE_ON_DEMAND,
    pb::{envoy::config::core::v3::Node, google::protobuf::value::Kind},
};

/// A proxy, or a program that needs none, as it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyProfile {
    /// The gateway of a node, through which programs of the host reach services.
    Gateway {
        /// Where it listens.
        listen: IpAddr,
    },
    /// A program with gRPC's own xDS resolver, which asks for services by their names.
    Grpc {
        /// Where it looks names up that have no namespace.
        namespace: String,
    },
    /// A sidecar that gets the connections of its pod by capture.
    Redirected {
        /// The pod that it serves.
        pod: PodId,
        /// The address of the pod, if the proxy told it.
        address: Option<IpAddr>,
        /// Whether it asks for a service when it is first called, and needs to know no other.
        on_demand: bool,
    },
    /// A sidecar that is called at its own address.
    Addressed {
        /// The pod that it serves.
        pod: PodId,
        /// Where it listens, if the proxy told it.
        listen: Option<IpAddr>,
        /// The address of the workload, if the proxy told it.
        workload: Option<IpAddr>,
    },
}

/// Why a proxy gets no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Its node id is not one of ours.
    #[error("the proxy's node id is not valid")]
    Id(#[source] ParseProxyIdError),
    /// It does not say how traffic reaches it.
    #[error("the proxy's node metadata has no {METADATA_TRAFFIC}")]
    NoMode,
    /// It says something else.
    #[error("the proxy's node metadata {METADATA_TRAFFIC} is not valid")]
    Mode(#[source] ParseTrafficModeError),
    /// An address in its metadata is none.
    #[error("the proxy's node metadata {key} is not an IP address: {value:?}")]
    Address {
        /// Of the metadata.
        key: &'static str,
        /// What it says.
        value: String,
    },
}

// === impl ProxyProfile ===

impl ProxyProfile {
    /// Reads what a proxy says about itself.
    pub fn from_node(node: &Node) -> Result<Self, ProfileError> {
        let (namespace, pod) = match node.id.parse().map_err(ProfileError::Id)? {
            ProxyId::Gateway { .. } => {
                let listen = address(node, METADATA_LISTEN_ADDRESS)?.unwrap_or(Ipv4Addr::LOCALHOST.into());
                return Ok(Self::Gateway { listen });
            }
            ProxyId::Grpc { namespace, .. } => return Ok(Self::Grpc { namespace }),
            ProxyId::Sidecar { namespace, pod } => (namespace, pod),
        };
        let pod = PodId::new(namespace, pod);
        let mode = metadata(node, METADATA_TRAFFIC).ok_or(ProfileError::NoMode)?;
        let address = address(node, METADATA_POD_IP)?;
        Ok(match mode.parse().map_err(ProfileError::Mode)? {
            TrafficMode::Redirect => {
                let on_demand = node.client_features.iter().any(|feature| feature == FEATURE_ON_DEMAND);
                Self::Redirected { pod, address, on_demand }
            }
            TrafficMode::Addressed => {
                let listen = self::address(node, METADATA_SIDECAR_ADDRESS)?;
                Self::Addressed { pod, listen, workload: address }
            }
        })
    }

    /// The pod that it serves, if any.
    pub fn pod(&self) -> Option<&PodId> {
        match self {
            Self::Gateway { .. } | Self::Grpc { .. } => None,
            Self::Redirected { pod, .. } | Self::Addressed { pod, .. } => Some(pod),
        }
    }
}

fn metadata<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Empty counts as not told: a bootstrap is written before the pod has an address.
fn address(node: &Node, key: &'static str) -> Result<Option<IpAddr>, ProfileError> {
    match metadata(node, key) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(ProfileError::Address { key, value: text.to_owned() }),
        },
    }
}

#[cfg(test)]
mod tests {
    use weft_xds::pb::google::protobuf::{Struct, Value};

    use super::*;

    fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
        let value = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let fields = metadata.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
        Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Node::default() }
    }

    #[test]
    fn a_proxy_is_what_it_says() {
        let profile = |id, metadata| ProxyProfile::from_node(&node(id, metadata)).unwrap();
        let gateway = |listen: [u8; 4]| ProxyProfile::Gateway { listen: listen.into() };
        assert_eq!(profile("gateway~~n1", &[]), gateway([127, 0, 0, 1]));
        assert_eq!(
            profile("gateway~~n1", &[(METADATA_LISTEN_ADDRESS, "127.0.0.9")]),
            gateway([127, 0, 0, 9])
        );
        assert_eq!(profile("grpc~shop~cart-1", &[]), ProxyProfile::Grpc { namespace: "shop".into() });
        let pod = PodId::new("default", "web-1");
        let address = Some("127.64.0.2".parse().unwrap());
        assert_eq!(
            profile(
                "sidecar~default~web-1",
                &[(METADATA_TRAFFIC, "redirect"), (METADATA_POD_IP, "127.64.0.2")]
            ),
            ProxyProfile::Redirected { pod: pod.clone(), address, on_demand: false }
        );
        let mut asks = node("sidecar~default~web-1", &[(METADATA_TRAFFIC, "redirect")]);
        asks.client_features.push(FEATURE_ON_DEMAND.to_owned());
        let asks = ProxyProfile::from_node(&asks).unwrap();
        assert_eq!(asks, ProxyProfile::Redirected { pod: pod.clone(), address: None, on_demand: true });
        assert_eq!(
            profile(
                "sidecar~default~web-1",
                &[(METADATA_TRAFFIC, "addressed"), (METADATA_POD_IP, "127.64.0.2")]
            ),
            ProxyProfile::Addressed { pod, listen: None, workload: address }
        );
    }

    #[test]
    fn a_proxy_that_says_nonsense_is_refused_by_name() {
        for (id, metadata, part) in [
            ("envoy-1", &[][..], "node id"),
            ("sidecar~default~web-1", &[], METADATA_TRAFFIC),
            ("sidecar~default~web-1", &[(METADATA_TRAFFIC, "magic")], METADATA_TRAFFIC),
            (
                "sidecar~default~web-1",
                &[(METADATA_TRAFFIC, "redirect"), (METADATA_POD_IP, "here")],
                METADATA_POD_IP,
            ),
        ] {
            let error = ProxyProfile::from_node(&node(id, metadata)).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
