//! What the configuration in force refers to, and where that comes from.

use std::{collections::BTreeSet, sync::Arc};

use weft_xds::{ResourceType, Subscriptions};

use super::State;
use crate::{
    cluster::Discovery,
    config::{
        files::FileRef,
        servers::Servers,
        source::{FileSource, Source},
    },
};

impl State {
    /// Where clusters and listeners come from beside the bootstrap, and where anything may come from.
    pub(crate) fn set_sources(
        &mut self,
        clusters: Option<Source>,
        listeners: Option<Source>,
        servers: &Arc<Servers>,
    ) {
        self.names.set_servers(servers);
        self.clusters_from = clusters;
        self.listeners_from = listeners;
    }

    /// What an xDS server has to give.
    pub(crate) fn wanted(&self) -> Subscriptions {
        let endpoints = self.all_clusters().filter_map(|entry| match &entry.cluster.discovery {
            Discovery::Eds { service_name, source: Source::Ads } => Some(service_name.clone()),
            _ => None,
        });
        let routes = self.asked_routes().into_iter();
        let names = &self.names;
        let over_ads =
            |key: &String| !names.route_files.contains_key(key) && !names.route_servers.contains_key(key);
        let (listeners, clusters) = self.wanted_on_demand();
        Subscriptions {
            all_clusters: self.clusters_from == Some(Source::Ads),
            all_listeners: self.listeners_from == Some(Source::Ads),
            clusters: clusters.into_iter().chain(self.shared.wanted_clusters.names()).collect(),
            listeners,
            endpoints: endpoints.collect(),
            routes: routes.filter(over_ads).collect(),
            secrets: self.names.secrets.wanted(),
            all_scopes: self.names.scopes.from == Some(Source::Ads),
            virtual_hosts: self.names.demand.names(),
            virtual_host_tables: self.open_tables().into_values().collect(),
            extensions: {
                let known = &self.names.extensions;
                let over_ads =
                    |key: &String| !known.files.contains_key(key) && !known.servers.contains_key(key);
                self.asked_extensions().into_iter().filter(over_ads).collect()
            },
            runtimes: self.runtime_layers.over_ads(),
        }
    }

    /// What files have to give.
    pub(crate) fn wanted_files(&self) -> BTreeSet<FileRef> {
        let all = |type_, source: &Option<Source>| match source {
            Some(Source::File(source)) => Some(FileRef { type_, source: source.clone(), one: None }),
            Some(Source::Ads | Source::Server(_)) | None => None,
        };
        let one = |type_, source: &FileSource, name: &str, key: String| FileRef {
            type_,
            source: source.clone(),
            one: Some((name.to_owned(), key)),
        };
        let mut files = BTreeSet::new();
        files.extend(all(ResourceType::Cluster, &self.clusters_from));
        files.extend(all(ResourceType::Listener, &self.listeners_from));
        files.extend(all(ResourceType::ScopedRouteConfiguration, &self.names.scopes.from));
        for (name, from) in &self.runtime_layers.resources {
            if let Source::File(source) = from {
                files.insert(one(ResourceType::Runtime, source, name, from.key(name)));
            }
        }
        for entry in self.all_clusters() {
            if let Discovery::Eds { service_name, source: from @ Source::File(source) } =
                &entry.cluster.discovery
            {
                let key = from.key(service_name);
                files.insert(one(ResourceType::ClusterLoadAssignment, source, service_name, key));
            }
        }
        for key in self.asked_extensions() {
            if let Some((source, name)) = self.names.extensions.files.get(&key) {
                files.insert(one(ResourceType::ExtensionConfig, source, name, key));
            }
        }
        for key in self.asked_routes() {
            if let Some((source, name)) = self.names.route_files.get(&key) {
                files.insert(one(ResourceType::RouteConfiguration, source, name, key.clone()));
            }
        }
        files
    }

    /// Names of the clusters or listeners that the bootstrap does not hold.
    pub(crate) fn dynamic_names(&self, type_: ResourceType) -> Vec<String> {
        match type_ {
            ResourceType::Cluster => {
                let dynamic = self.clusters.iter().filter(|(_, entry)| !entry.from_file);
                dynamic.map(|(name, _)| name.clone()).collect()
            }
            ResourceType::Listener => {
                let dynamic = self.listeners.iter().filter(|(_, entry)| !entry.from_file);
                dynamic.map(|(name, _)| name.clone()).collect()
            }
            ResourceType::ScopedRouteConfiguration => self.scopes.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// Keys of the endpoints that clusters refer to.
    pub(super) fn asked_endpoints(&self) -> BTreeSet<String> {
        self.all_clusters().filter_map(|entry| entry.cluster.discovery.key()).collect()
    }

    /// Drops endpoints and route tables that nothing refers to any more: a server does not take back what is not asked
    /// for any longer.
    pub(super) fn forget_unasked(&mut self) {
        let endpoints = self.asked_endpoints();
        let routes = self.asked_routes();
        let extensions = self.asked_extensions();
        self.names.extensions.retain(&extensions);
        let open: BTreeSet<String> = self.open_tables().into_values().collect();
        let of_open = |name: &str| name.rsplit_once('/').is_some_and(|(key, _)| open.contains(key));
        self.names.demand.retain(of_open);
        self.virtual_hosts.retain(|name, _| of_open(name));
        let ledger = &mut self.ledger;
        let mut stays = |type_, asked: &BTreeSet<String>, key: &str| {
            let asked = asked.contains(key);
            if !asked {
                ledger.removed(type_, key);
            }
            asked
        };
        self.endpoints.retain(|key, _| stays(ResourceType::ClusterLoadAssignment, &endpoints, key));
        self.next_routes.retain(|key, _| routes.contains(key));
        self.routes.retain(|key, _| stays(ResourceType::RouteConfiguration, &routes, key));
        self.route_clusters.retain(|key, _| self.routes.contains_key(key));
    }
}
