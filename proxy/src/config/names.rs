//! Names that one resource uses to refer to another.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::Arc,
};

use super::{
    extensions::Extensions,
    scoped_routes::ScopeTables,
    secrets::Secrets,
    servers::{ServerSource, Servers},
    source::{FileSource, Patience, Source},
};
use crate::{
    access_log::writer::{LogStats, Output},
    cluster::{ClusterSlot, directory::Directory},
    metrics::NamedCounters,
    route::{RouteSlot, demand::Demand},
};

/// What each name leads to: the same place before and after what has the name is known.
#[derive(Debug)]
pub(crate) struct Names {
    pub(super) clusters: HashMap<String, Arc<ClusterSlot>>,
    /// Clusters without which the configuration makes no sense.
    required: BTreeSet<String>,
    routes: HashMap<String, Arc<RouteSlot>>,
    /// Those of `routes` that come from files, and the name there.
    pub(super) route_files: HashMap<String, (FileSource, String)>,
    /// Those of `routes` that come from servers that are asked for nothing else, and the name there.
    pub(super) route_servers: HashMap<String, (ServerSource, String)>,
    pub(super) logs: HashMap<String, Output>,
    pub(crate) secrets: Secrets,
    pub(crate) extensions: Extensions,
    pub(crate) scopes: ScopeTables,
    /// Where configuration may come from.
    pub(crate) servers: Arc<Servers>,
    /// Virtual hosts that requests ask for.
    pub(crate) demand: Arc<Demand>,
    log_stats: Arc<LogStats>,
    /// What the filters of routes count in.
    pub(crate) counters: Arc<NamedCounters>,
    /// For routes that learn the name of their cluster from a request.
    pub(crate) directory: Arc<Directory>,
    /// Route tables that were asked for by name since this was last emptied.
    pub(super) asked_routes: BTreeSet<String>,
    /// The same of clusters.
    pub(super) asked_clusters: BTreeSet<String>,
    /// How long they are waited for.
    pub(crate) patience: Patience,
}

// === impl Names ===

impl Names {
    pub(crate) fn new(log_stats: Arc<LogStats>, counters: Arc<NamedCounters>) -> Self {
        Self {
            clusters: HashMap::new(),
            required: BTreeSet::new(),
            routes: HashMap::new(),
            route_files: HashMap::new(),
            route_servers: HashMap::new(),
            logs: HashMap::new(),
            secrets: Secrets::default(),
            extensions: Extensions::default(),
            scopes: ScopeTables::default(),
            servers: Arc::default(),
            demand: Arc::default(),
            log_stats,
            counters,
            directory: Arc::default(),
            asked_routes: BTreeSet::new(),
            asked_clusters: BTreeSet::new(),
            patience: Patience::default(),
        }
    }

    /// Makes known where configuration may come from.
    pub(crate) fn set_servers(&mut self, servers: &Arc<Servers>) {
        self.servers = Arc::clone(servers);
        self.secrets.set_servers(servers);
    }

    /// Every cluster that must be there.
    pub(crate) fn cluster_names(&self) -> impl Iterator<Item = &String> {
        self.required.iter()
    }

    /// The place of the cluster of this name, for who cannot do without it.
    pub(crate) fn cluster(&mut self, name: &str) -> Arc<ClusterSlot> {
        if !self.required.contains(name) {
            self.required.insert(name.to_owned());
        }
        self.asked_clusters.insert(name.to_owned());
        self.cluster_if_any(name)
    }

    /// The same for who can do without, as Envoy's filters do: a cluster that is not there is one that does not answer.
    pub(crate) fn cluster_if_any(&mut self, name: &str) -> Arc<ClusterSlot> {
        let slot = self.clusters.entry(name.to_owned()).or_insert_with(|| Arc::new(ClusterSlot::empty(name)));
        Arc::clone(slot)
    }

    /// Makes the clusters that came or went known to those who look for them by name.
    pub(crate) fn list_clusters(&self) {
        self.directory.set(self.clusters.iter().filter(|(_, slot)| slot.get().is_some()));
    }

    /// The place of the route table of this name.
    pub(crate) fn route(&mut self, source: &Source, name: &str) -> Arc<RouteSlot> {
        self.asked_routes.insert(source.key(name));
        self.route_slot(source, name)
    }

    /// The same for who does not wait for it.
    pub(super) fn route_slot(&mut self, source: &Source, name: &str) -> Arc<RouteSlot> {
        let key = source.key(name);
        match source {
            Source::Ads => {}
            Source::File(file) => {
                self.route_files.insert(key.clone(), (file.clone(), name.to_owned()));
            }
            Source::Server(server) => {
                self.route_servers.insert(key.clone(), (server.clone(), name.to_owned()));
            }
        }
        self.known_route(key)
    }

    pub(super) fn known_route(&mut self, key: String) -> Arc<RouteSlot> {
        Arc::clone(self.routes.entry(key).or_insert_with(|| Arc::new(RouteSlot::empty())))
    }

    /// The writer for an access log file: one per path, however many configurations name it.
    pub(crate) fn log_output(&mut self, path: &str) -> io::Result<Output> {
        if let Some(output) = self.logs.get(path) {
            return Ok(output.clone());
        }
        let output = Output::open(path, &self.log_stats)?;
        self.logs.insert(path.to_owned(), output.clone());
        Ok(output)
    }

    pub(super) fn forget_unused(&mut self) {
        self.clusters.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.get().is_some());
        self.required.retain(|name| self.clusters.contains_key(name));
        self.routes.retain(|_, slot| Arc::strong_count(slot) > 1);
        self.route_files.retain(|key, _| self.routes.contains_key(key));
        self.route_servers.retain(|key, _| self.routes.contains_key(key));
        self.secrets.forget_unused();
        self.scopes.forget_unused();
        self.logs.retain(|_, output| !output.is_last());
    }
}
