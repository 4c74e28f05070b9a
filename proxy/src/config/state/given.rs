//! What a server gave and is in force, as it would give it again.

use weft_xds::{
    Resource, ResourceType, ResourceUpdate, any,
    pb::{
        envoy::config::{
            cluster::v3::Cluster as ProtoCluster,
            core::v3::TypedExtensionConfig,
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener as ProtoListener,
            route::v3::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost},
        },
        envoy::extensions::transport_sockets::tls::v3::Secret,
        envoy::service::runtime::v3::Runtime as ProtoRuntime,
        google::protobuf::Any,
    },
};

use super::State;

impl State {
    /// All of a type that a server gave, with its versions.
    pub(crate) fn given(&self, type_: ResourceType) -> ResourceUpdate {
        let resource = |(name, body): (&str, Any)| {
            let known = self.ledger.get(type_, name);
            let version = known.map(|known| known.version.clone()).unwrap_or_default();
            Resource { name: name.to_owned(), aliases: Vec::new(), version, body, caused_at: None }
        };
        ResourceUpdate {
            type_,
            version: self.versions.get(&type_.to_string()).cloned().unwrap_or_default(),
            upserts: self.bodies(type_).into_iter().map(resource).collect(),
            removed: Vec::new(),
        }
    }

    /// Without what came from files: those are on disk anyhow.
    fn bodies(&self, type_: ResourceType) -> Vec<(&str, Any)> {
        let wanted = self.wanted();
        match type_ {
            ResourceType::Cluster if !wanted.all_clusters => Vec::new(),
            ResourceType::Listener if !wanted.all_listeners => Vec::new(),
            ResourceType::Cluster => {
                let given = self.clusters.iter().filter(|(_, entry)| !entry.from_file);
                // Accepted, and told to be, before it is in force.
                let last = |(name, entry)| (name, self.next_clusters.get(name).unwrap_or(entry));
                given
                    .map(last)
                    .map(|(name, entry)| (name.as_str(), any::pack::<ProtoCluster>(&entry.message)))
                    .collect()
            }
            ResourceType::Listener => {
                let given = self.listeners.iter().filter(|(_, entry)| !entry.from_file);
                given
                    .map(|(name, entry)| (name.as_str(), any::pack::<ProtoListener>(&entry.message)))
                    .collect()
            }
            ResourceType::ClusterLoadAssignment => {
                let packed = |message| any::pack::<ClusterLoadAssignment>(message);
                let given = self.endpoints.iter().filter(|(key, _)| wanted.endpoints.contains(*key));
                given.map(|(name, message)| (name.as_str(), packed(message))).collect()
            }
            ResourceType::RouteConfiguration => {
                let packed = |message| any::pack::<RouteConfiguration>(message);
                let given = self.last_routes().filter(|(key, _)| wanted.routes.contains(*key));
                given.map(|(name, message)| (name.as_str(), packed(message))).collect()
            }
            ResourceType::Secret => {
                let packed = |message| any::pack::<Secret>(message);
                self.names.secrets.given().map(|secret| (secret.name.as_str(), packed(secret))).collect()
            }
            ResourceType::Runtime => {
                let packed = |message| any::pack::<ProtoRuntime>(message);
                let given =
                    self.runtime_layers.given.iter().filter(|(key, _)| wanted.runtimes.contains(*key));
                given.map(|(name, message)| (name.as_str(), packed(message))).collect()
            }
            ResourceType::ExtensionConfig => {
                let given = self.extensions().filter(|(key, _)| wanted.extensions.contains(*key));
                given
                    .map(|(name, message)| (name.as_str(), any::pack::<TypedExtensionConfig>(message)))
                    .collect()
            }
            ResourceType::ScopedRouteConfiguration if !wanted.all_scopes => Vec::new(),
            ResourceType::ScopedRouteConfiguration => {
                let packed = |message| any::pack::<ScopedRouteConfiguration>(message);
                self.scopes.iter().map(|(name, message)| (name.as_str(), packed(message))).collect()
            }
            ResourceType::VirtualHost => {
                let packed = |message| any::pack::<VirtualHost>(message);
                self.virtual_hosts.iter().map(|(name, message)| (name.as_str(), packed(message))).collect()
            }
        }
    }
}
