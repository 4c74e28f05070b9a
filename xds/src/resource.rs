//! What travels over xDS: resources, their types, and who wants which.

use std::{collections::BTreeSet, fmt, time::SystemTime};

use crate::{any::type_name, pb::google::protobuf::Any};

/// The kinds of resource that Weft serves and understands.
///
/// The order is the one in which updates are to be sent so that nothing refers to what is not there yet
/// ("make before break"): clusters, their endpoints, certificates and filters, listeners, scopes, routes, virtual hosts.
/// Runtime values refer to nothing and guard how the rest is understood, so that they go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// RTDS.
    Runtime,
    /// CDS.
    Cluster,
    /// EDS.
    ClusterLoadAssignment,
    /// SDS.
    Secret,
    /// ECDS.
    ExtensionConfig,
    /// LDS.
    Listener,
    /// SRDS.
    ScopedRouteConfiguration,
    /// RDS.
    RouteConfiguration,
    /// VHDS; incremental only.
    VirtualHost,
}

/// One named, versioned resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Unique within its type.
    pub name: String,
    /// Other names that it was asked for by; only of types that [say themselves](ResourceType::names_itself) what their
    /// name is, as others come under the name that was asked for.
    pub aliases: Vec<String>,
    /// The server's name for this state of it; empty where the protocol variant gives none.
    pub version: String,
    /// The protobuf message.
    pub body: Any,
    /// When what changed it happened, as our own server tells of a change to what was there.
    pub caused_at: Option<SystemTime>,
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
    /// Names of clusters beside all of them: those that a server gives only to who asks.
    pub clusters: BTreeSet<String>,
    /// The same of listeners.
    pub listeners: BTreeSet<String>,
    /// Names of `ClusterLoadAssignment`s.
    pub endpoints: BTreeSet<String>,
    /// Names of `RouteConfiguration`s.
    pub routes: BTreeSet<String>,
    /// Names of `Secret`s.
    pub secrets: BTreeSet<String>,
    /// All scopes of routes that the server has for this proxy.
    pub all_scopes: bool,
    /// Names of `VirtualHost`s, each the name of a `RouteConfiguration`, a slash and a host.
    pub virtual_hosts: BTreeSet<String>,
    /// Names of `RouteConfiguration`s of which a server may send `VirtualHost`s that were not asked for by name.
    pub virtual_host_tables: BTreeSet<String>,
    /// Names of `TypedExtensionConfig`s.
    pub extensions: BTreeSet<String>,
    /// Names of `Runtime`s.
    pub runtimes: BTreeSet<String>,
}

// === impl ResourceType ===

impl ResourceType {
    /// All types, in sending order.
    pub const ALL: [Self; 9] = [
        Self::Runtime,
        Self::Cluster,
        Self::ClusterLoadAssignment,
        Self::Secret,
        Self::ExtensionConfig,
        Self::Listener,
        Self::ScopedRouteConfiguration,
        Self::RouteConfiguration,
        Self::VirtualHost,
    ];

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
            Self::ScopedRouteConfiguration => {
                "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
            }
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::ExtensionConfig => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
        }
    }

    /// The service of the protocol that brings it, in short.
    pub fn service(self) -> &'static str {
        match self {
            Self::Runtime => "rtds",
            Self::Cluster => "cds",
            Self::ClusterLoadAssignment => "eds",
            Self::Secret => "sds",
            Self::ExtensionConfig => "ecds",
            Self::Listener => "lds",
            Self::ScopedRouteConfiguration => "srds",
            Self::RouteConfiguration => "rds",
            Self::VirtualHost => "vhds",
        }
    }

    /// The gRPC service that brings nothing else, and what its methods are named for.
    pub fn grpc_service(self) -> (&'static str, &'static str) {
        match self {
            Self::Runtime => ("envoy.service.runtime.v3.RuntimeDiscoveryService", "Runtime"),
            Self::Cluster => ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters"),
            Self::ClusterLoadAssignment => {
                ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints")
            }
            Self::Secret => ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets"),
            Self::ExtensionConfig => {
                ("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs")
            }
            Self::Listener => ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners"),
            Self::ScopedRouteConfiguration => {
                ("envoy.service.route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes")
            }
            Self::RouteConfiguration => ("envoy.service.route.v3.RouteDiscoveryService", "Routes"),
            Self::VirtualHost => ("envoy.service.route.v3.VirtualHostDiscoveryService", "VirtualHosts"),
        }
    }

    /// What follows `/v3/discovery:` in the path of a REST request, from the `google.api.http` options of the services;
    /// `None` where the protocol has no such request.
    pub fn rest_noun(self) -> Option<&'static str> {
        match self {
            Self::Runtime => Some("runtime"),
            Self::Cluster => Some("clusters"),
            Self::ClusterLoadAssignment => Some("endpoints"),
            Self::Secret => Some("secrets"),
            Self::ExtensionConfig => Some("extension_configs"),
            Self::Listener => Some("listeners"),
            Self::ScopedRouteConfiguration => Some("scoped-routes"),
            Self::RouteConfiguration => Some("routes"),
            Self::VirtualHost => None,
        }
    }

    /// The type that a type URL names, if it is one of ours.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        let name = type_name(type_url);
        Self::ALL.into_iter().find(|candidate| type_name(candidate.type_url()) == name)
    }

    /// Whether a request that names nothing asks for everything. The protocol has this for clusters and listeners;
    /// Envoy, and so every server that it can be used with, has it for scopes as well.
    pub fn is_wildcard_by_default(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::ScopedRouteConfiguration)
    }

    /// Whether the name within the resource is what it is known by, and not the name that it was asked for by.
    pub fn names_itself(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::ScopedRouteConfiguration | Self::VirtualHost)
    }

    /// Whether the protocol has it in the state-of-the-world variant.
    pub fn has_sotw(self) -> bool {
        self != Self::VirtualHost
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
            Self::ScopedRouteConfiguration => "scope",
            Self::VirtualHost => "virtual-host",
            Self::ExtensionConfig => "extension",
            Self::Runtime => "runtime",
        })
    }
}

// === impl Subscriptions ===

impl Subscriptions {
    /// Whether all of a type is wanted.
    pub fn all(&self, type_: ResourceType) -> bool {
        match type_ {
            ResourceType::Cluster => self.all_clusters,
            ResourceType::Listener => self.all_listeners,
            ResourceType::ScopedRouteConfiguration => self.all_scopes,
            _ => false,
        }
    }

    /// What the names of further resources begin with that are welcome, before their last slash.
    pub fn namespaces(&self, type_: ResourceType) -> Option<&BTreeSet<String>> {
        (type_ == ResourceType::VirtualHost).then_some(&self.virtual_host_tables)
    }

    /// The names that are wanted of a type; `None` for types that are not asked for by name.
    pub fn names(&self, type_: ResourceType) -> Option<&BTreeSet<String>> {
        match type_ {
            ResourceType::ScopedRouteConfiguration => None,
            ResourceType::Cluster => Some(&self.clusters),
            ResourceType::Listener => Some(&self.listeners),
            ResourceType::ClusterLoadAssignment => Some(&self.endpoints),
            ResourceType::RouteConfiguration => Some(&self.routes),
            ResourceType::Secret => Some(&self.secrets),
            ResourceType::VirtualHost => Some(&self.virtual_hosts),
            ResourceType::ExtensionConfig => Some(&self.extensions),
            ResourceType::Runtime => Some(&self.runtimes),
        }
    }
}

impl Default for Subscriptions {
    /// All clusters and listeners, nothing else: what a proxy wants that knows only its server.
    fn default() -> Self {
        Self {
            all_clusters: true,
            all_listeners: true,
            clusters: BTreeSet::new(),
            listeners: BTreeSet::new(),
            endpoints: BTreeSet::new(),
            routes: BTreeSet::new(),
            secrets: BTreeSet::new(),
            all_scopes: false,
            virtual_hosts: BTreeSet::new(),
            virtual_host_tables: BTreeSet::new(),
            extensions: BTreeSet::new(),
            runtimes: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_place_and_its_own_names() {
        for (place, type_) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(type_.index(), place, "{type_}");
            assert_eq!(ResourceType::from_type_url(type_.type_url()), Some(type_));
        }
        let names = |name: fn(ResourceType) -> String| ResourceType::ALL.map(name).into_iter().collect();
        let all: [BTreeSet<String>; 2] =
            [names(|type_| type_.to_string()), names(|type_| type_.service().to_owned())];
        assert!(all.iter().all(|names| names.len() == ResourceType::ALL.len()), "{all:?}");
    }
}
