//! What servers have to give that are asked for one type each.

use std::collections::BTreeSet;

use weft_xds::{ResourceType, Subscriptions};

use super::State;
use crate::{
    cluster::Discovery,
    config::{servers::ServerSource, source::Source},
};

impl State {
    /// Each server with each type that it is asked for.
    pub(crate) fn wanted_servers(&self) -> BTreeSet<(ServerSource, ResourceType)> {
        let mut wanted = BTreeSet::new();
        for (type_, from) in [
            (ResourceType::Cluster, &self.clusters_from),
            (ResourceType::Listener, &self.listeners_from),
            (ResourceType::ScopedRouteConfiguration, &self.names.scopes.from),
        ] {
            if let Some(Source::Server(server)) = from {
                wanted.insert((server.clone(), type_));
            }
        }
        let endpoints = self.endpoints_from_servers().map(|(server, _)| server);
        wanted.extend(endpoints.map(|server| (server.clone(), ResourceType::ClusterLoadAssignment)));
        let routes = self.routes_from_servers().into_iter();
        wanted.extend(routes.map(|(server, _)| (server.clone(), ResourceType::RouteConfiguration)));
        let extensions = self.extensions_from_servers().into_iter();
        wanted.extend(extensions.map(|(server, _)| (server.clone(), ResourceType::ExtensionConfig)));
        let runtimes = self.runtimes_from_servers().map(|(server, _)| server);
        wanted.extend(runtimes.map(|server| (server.clone(), ResourceType::Runtime)));
        let secrets = self.names.secrets.wanted_from_servers().into_iter();
        wanted.extend(secrets.map(|(server, _)| (server, ResourceType::Secret)));
        wanted
    }

    /// What one of them is asked for of one type.
    pub(crate) fn wanted_from(&self, server: &ServerSource, type_: ResourceType) -> Subscriptions {
        let all = |from: &Option<Source>| matches!(from, Some(Source::Server(from)) if from == server);
        let mut wanted =
            Subscriptions { all_clusters: false, all_listeners: false, ..Subscriptions::default() };
        match type_ {
            ResourceType::Cluster => wanted.all_clusters = all(&self.clusters_from),
            ResourceType::Listener => wanted.all_listeners = all(&self.listeners_from),
            ResourceType::ClusterLoadAssignment => {
                let names = self.endpoints_from_servers().filter(|(from, _)| *from == server);
                wanted.endpoints = names.map(|(_, name)| name.clone()).collect();
            }
            ResourceType::RouteConfiguration => {
                let names = self.routes_from_servers().into_iter().filter(|(from, _)| *from == server);
                wanted.routes = names.map(|(_, name)| name.clone()).collect();
            }
            ResourceType::Secret => {
                let all = self.names.secrets.wanted_from_servers().into_iter();
                wanted.secrets = all.filter(|(from, _)| from == server).map(|(_, name)| name).collect();
            }
            ResourceType::Runtime => {
                let names = self.runtimes_from_servers().filter(|(from, _)| *from == server);
                wanted.runtimes = names.map(|(_, name)| name.clone()).collect();
            }
            ResourceType::ScopedRouteConfiguration => wanted.all_scopes = all(&self.names.scopes.from),
            ResourceType::ExtensionConfig => {
                let names = self.extensions_from_servers().into_iter().filter(|(from, _)| *from == server);
                wanted.extensions = names.map(|(_, name)| name.clone()).collect();
            }
            // Nothing can name such a server as their source.
            ResourceType::VirtualHost => {}
        }
        wanted
    }

    fn runtimes_from_servers(&self) -> impl Iterator<Item = (&ServerSource, &String)> {
        self.runtime_layers.resources.iter().filter_map(|(name, source)| match source {
            Source::Server(server) => Some((server, name)),
            _ => None,
        })
    }

    fn endpoints_from_servers(&self) -> impl Iterator<Item = (&ServerSource, &String)> {
        self.all_clusters().filter_map(|entry| match &entry.cluster.discovery {
            Discovery::Eds { service_name, source: Source::Server(server) } => Some((server, service_name)),
            _ => None,
        })
    }

    fn routes_from_servers(&self) -> Vec<(&ServerSource, &String)> {
        let routes = self.asked_routes();
        let known = self.names.route_servers.iter().filter(|(key, _)| routes.contains(*key));
        known.map(|(_, (server, name))| (server, name)).collect()
    }

    fn extensions_from_servers(&self) -> Vec<(&ServerSource, &String)> {
        let extensions = self.asked_extensions();
        let known = self.names.extensions.servers.iter().filter(|(key, _)| extensions.contains(*key));
        known.map(|(_, (server, name))| (server, name)).collect()
    }
}
