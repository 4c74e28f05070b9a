//! What servers give, and what of it is in force, as they would give it again.

use std::collections::BTreeMap;

use weft_xds::{
    Rejected, Resource, ResourceType, ResourceUpdate, Subscriptions, any,
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
use crate::config::{last_good::Origin, servers::ServerSource, source::Source};

impl State {
    /// Takes over a change from an xDS server, and takes note of what it gave.
    pub(crate) fn apply_from(
        &mut self,
        origin: &Origin,
        update: ResourceUpdate,
    ) -> Result<(), Vec<Rejected>> {
        let version = update.version.clone();
        let verdict = match &origin.server {
            // Clusters, listeners and scopes have one source each.
            Some(server) if !origin.type_.is_wildcard_by_default() => self.apply_by_key(server, update),
            _ => self.apply(update),
        };
        if verdict.is_ok() {
            self.origins.insert(origin.clone(), version);
        }
        if let Some(last_good) = &self.last_good {
            last_good.changed(origin.clone());
        }
        verdict
    }

    /// What one server gives of one type is known here by its source as well.
    fn apply_by_key(
        &mut self,
        server: &ServerSource,
        mut update: ResourceUpdate,
    ) -> Result<(), Vec<Rejected>> {
        let source = Source::Server(server.clone());
        let names = update.upserts.iter().map(|resource| &resource.name).chain(&update.removed);
        let names: BTreeMap<String, String> = names.map(|name| (source.key(name), name.clone())).collect();
        for resource in &mut update.upserts {
            resource.name = source.key(&resource.name);
        }
        for name in &mut update.removed {
            *name = source.key(name);
        }
        self.apply(update).map_err(|mut rejected| {
            for rejected in &mut rejected {
                if let Some(name) = names.get(&rejected.name) {
                    rejected.name.clone_from(name);
                }
            }
            rejected
        })
    }

    /// All that this gave and that is in force, with its versions.
    pub(crate) fn given(&self, origin: &Origin) -> ResourceUpdate {
        let type_ = origin.type_;
        let (wanted, source) = match &origin.server {
            None => (self.wanted(), Source::Ads),
            Some(server) => (self.wanted_from(server, type_), Source::Server(server.clone())),
        };
        let key =
            |name: &str| if type_.is_wildcard_by_default() { name.to_owned() } else { source.key(name) };
        let resource = |(name, body): (String, Any)| {
            let known = self.ledger.get(type_, &key(&name));
            let version = known.map(|known| known.version.clone()).unwrap_or_default();
            Resource { name, aliases: Vec::new(), version, body, caused_at: None }
        };
        ResourceUpdate {
            type_,
            version: self.origins.get(origin).cloned().unwrap_or_default(),
            upserts: self.bodies(type_, &wanted, &source).into_iter().map(resource).collect(),
            removed: Vec::new(),
        }
    }

    /// Without what came from files: those are on disk anyhow.
    fn bodies(&self, type_: ResourceType, wanted: &Subscriptions, source: &Source) -> Vec<(String, Any)> {
        let named = |body: &dyn Fn(&str) -> Option<Any>| {
            let names = wanted.names(type_).into_iter().flatten();
            names.filter_map(|name| Some((name.clone(), body(&source.key(name))?))).collect()
        };
        match type_ {
            ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRouteConfiguration
                if !wanted.all(type_) =>
            {
                Vec::new()
            }
            ResourceType::Cluster => {
                let given = self.clusters.iter().filter(|(_, entry)| !entry.from_file);
                // Accepted, and told to be, before it is in force.
                let last = |(name, entry)| (name, self.next_clusters.get(name).unwrap_or(entry));
                given
                    .map(last)
                    .map(|(name, entry)| (name.clone(), any::pack::<ProtoCluster>(&entry.message)))
                    .collect()
            }
            ResourceType::Listener => {
                let given = self.listeners.iter().filter(|(_, entry)| !entry.from_file);
                given
                    .map(|(name, entry)| (name.clone(), any::pack::<ProtoListener>(&entry.message)))
                    .collect()
            }
            ResourceType::ScopedRouteConfiguration => {
                let packed = |message| any::pack::<ScopedRouteConfiguration>(message);
                self.scopes.iter().map(|(name, message)| (name.clone(), packed(message))).collect()
            }
            ResourceType::VirtualHost => {
                let packed = |message| any::pack::<VirtualHost>(message);
                self.virtual_hosts.iter().map(|(name, message)| (name.clone(), packed(message))).collect()
            }
            ResourceType::ClusterLoadAssignment => {
                named(&|key| Some(any::pack::<ClusterLoadAssignment>(self.endpoints.get(key)?)))
            }
            ResourceType::RouteConfiguration => {
                named(&|key| Some(any::pack::<RouteConfiguration>(self.last_routes(key)?)))
            }
            ResourceType::Secret => named(&|key| Some(any::pack::<Secret>(self.names.secrets.given(key)?))),
            ResourceType::Runtime => {
                named(&|key| Some(any::pack::<ProtoRuntime>(self.runtime_layers.given.get(key)?)))
            }
            ResourceType::ExtensionConfig => {
                named(&|key| Some(any::pack::<TypedExtensionConfig>(self.names.extensions.get(key)?)))
            }
        }
    }
}
