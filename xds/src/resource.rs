//! What travels over xDS: resources, their types, and who wants which.

use std::{collections::BTreeSet, fmt};

use crate::{any::type_name, pb::google::protobuf::Any};

/// The kinds of resource that Weft serves and understands.
///
/// The order is the one in which updates are to be sent so that nothing refers to what is not there yet
/// ("make before break"): clusters, their endpoints, certificates, listeners, routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    ClusterLoadAssignment,
    /// SDS.
    Secret,
    /// LDS.
    Listener,
    /// RDS.
    RouteConfiguration,
}

/// One named, versioned resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Unique within its type.
    pub name: String,
    /// The server's name for this state of it; empty where the protocol variant gives none.
    pub version: String,
    /// The protobuf message.
    pub body: Any,
}

/// What changed in one type since the last update that was accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceUpdate {
    /// The type of all of them.
    pub type_: ResourceType,
    /// The server's name for the resulting state of the whole type; only for people.
    pub version: String,
    /// New and changed resources, in the server's order; each name at most once.
    pub upserts: Vec<Resource>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

/// A resource that its receiver refused, and why. The last good version of it stays in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The resource's name; empty if the response as a whole is meant.
    pub name: String,
    /// For people; names the field.
    pub reason: String,
}

/// What a client wants to be told about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriptions {
    /// All clusters that the server has for this proxy.
    pub all_clusters: bool,
    /// All listeners that the server has for this proxy.
    pub all_listeners: bool,
    /// Names of `ClusterLoadAssignment`s.
    pub endpoints: BTreeSet<String>,
    /// Names of `RouteConfiguration`s.
    pub routes: BTreeSet<String>,
    /// Names of `Secret`s.
    pub secrets: BTreeSet<String>,
}

// === impl ResourceType ===

impl ResourceType {
    /// All types, in sending order.
    pub const ALL: [Self; 5] =
        [Self::Cluster, Self::ClusterLoadAssignment, Self::Secret, Self::Listener, Self::RouteConfiguration];

    /// The type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::ClusterLoadAssignment => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::RouteConfiguration => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type that a type URL names, if it is one of ours.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        let name = type_name(type_url);
        Self::ALL.into_iter().find(|candidate| type_name(candidate.type_url()) == name)
    }

    /// Whether a request that names nothing asks for everything, which the protocol has for these two only.
    pub fn is_wildcard_by_default(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// Position in [`ALL`](Self::ALL).
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::ClusterLoadAssignment => "endpoints",
            Self::Secret => "secret",
            Self::Listener => "listener",
            Self::RouteConfiguration => "route",
        })
    }
}

// === impl Subscriptions ===

impl Default for Subscriptions {
    /// All clusters and listeners, nothing else: what a proxy wants that knows only its server.
    fn default() -> Self {
        Self {
            all_clusters: true,
            all_listeners: true,
            endpoints: BTreeSet::new(),
            routes: BTreeSet::new(),
            secrets: BTreeSet::new(),
        }
    }
}
