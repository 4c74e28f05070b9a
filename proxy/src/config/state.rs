//! What is in force: the only writer of everything that the data threads read.
//!
//! # Guarantees
//! * A resource is compiled completely before any of it is put in place; one that does not compile changes nothing.
//! * An update of endpoints touches nothing but the set of the clusters that use it.
//! * A listener is put in place only when the route tables and secrets that it names are there and the clusters that they
//!   lead to are warm, so that it never answers 404 or 503 or fails a handshake for want of an update that is on its way.
//!   Route tables and clusters that change serve as they were for as long.

mod apply;
mod clusters;
mod endpoints;
mod extensions;
mod given;
mod listeners;
pub(crate) mod on_demand;
mod references;
mod routes;
mod runtime;
mod scopes;
mod servers;
#[cfg(test)]
mod tests;
mod updates;
mod virtual_hosts;
mod warming;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};
use weft_xds::{
    ResourceType,
    pb::envoy::{
        config::{
            endpoint::v3::ClusterLoadAssignment,
            route::v3::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost},
        },
        extensions::transport_sockets::tls::v3::Secret,
    },
};

use self::{
    clusters::ClusterEntry, listeners::ListenerEntry, on_demand::OnDemand, routes::NextTable, runtime::Layers,
};
pub(crate) use self::{listeners::Which, updates::Updates};
use super::{
    ConfigError, Path,
    known::Ledger,
    last_good::{LastGood, Origin},
    names::Names,
    source::Source,
};
use crate::{
    access_log::writer::Output,
    route::demand::Demand,
    tls::material::Material,
    worker::{Shared, threads::Bindings},
};

/// Everything in force.
pub(crate) struct State {
    pub(crate) shared: Arc<Shared>,
    names: Names,
    /// In force, or the first of their name.
    pub(crate) clusters: BTreeMap<String, ClusterEntry>,
    /// What follows those of `clusters` when it is warm.
    pub(crate) next_clusters: BTreeMap<String, ClusterEntry>,
    /// Taken back, and still in force for what is about to be replaced.
    leaving: BTreeMap<String, ClusterEntry>,
    pub(crate) listeners: BTreeMap<String, ListenerEntry>,
    pub(crate) routes: BTreeMap<String, RouteConfiguration>,
    /// What follows those of `routes` when the clusters that it leads to are warm.
    next_routes: BTreeMap<String, NextTable>,
    pub(crate) scopes: BTreeMap<String, ScopedRouteConfiguration>,
    /// The clusters that each of `routes` names.
    route_clusters: BTreeMap<String, BTreeSet<String>>,
    /// Listeners that are asked for by the address that connections go to.
    on_demand: OnDemand,
    /// By the name of their route table, a slash and a host.
    pub(crate) virtual_hosts: BTreeMap<String, VirtualHost>,
    /// Whether the server speaks the incremental variant, without which there are no virtual hosts by themselves.
    pub(crate) incremental: bool,
    pub(crate) endpoints: BTreeMap<String, ClusterLoadAssignment>,
    /// Layers of runtime values that resources fill.
    pub(crate) runtime_layers: Layers,
    /// Where clusters and listeners come from beside the bootstrap.
    clusters_from: Option<Source>,
    listeners_from: Option<Source>,
    bindings: watch::Sender<Bindings>,
    control: Handle,
    /// Versions that the server gave, by type, for `/config_dump`.
    pub(crate) versions: BTreeMap<String, String>,
    /// The same by who gave them.
    origins: BTreeMap<Origin, String>,
    /// Types of which the server has told at least once.
    pub(crate) heard: BTreeSet<ResourceType>,
    /// Whether all clusters were warm at once since the server first told of them.
    started: bool,
    pub(crate) updates: Updates,
    /// What became of each resource that a server gave.
    pub(crate) ledger: Ledger,
    /// Told when files may be named that were not, or no longer.
    pub(crate) references: Arc<Notify>,
    /// The same for servers that are asked for one type.
    pub(crate) servers_changed: Arc<Notify>,
    /// Told when files changed what an xDS server has to give.
    pub(crate) wanted_changed: Arc<Notify>,
    /// Where what a server gave is kept.
    pub(crate) last_good: Option<Arc<LastGood>>,
    /// Whether listeners were told to drain.
    pub(crate) draining: bool,
    /// Whether all sockets were closed for good: updates open none any more.
    stopped: bool,
}

// === impl State ===

impl State {
    pub(crate) fn new(shared: Arc<Shared>, bindings: watch::Sender<Bindings>, control: Handle) -> Self {
        let mut names = Names::new(Arc::clone(&shared.log_stats), Arc::clone(&shared.registry.named));
        if let Some(local) = &shared.local {
            names.clusters.insert(local.name.clone(), Arc::clone(&local.slot));
        }
        let wanted_changed = shared.wanted_clusters.changed();
        names.demand = Arc::new(Demand::new(Arc::clone(&wanted_changed)));
        Self {
            shared,
            names,
            clusters: BTreeMap::new(),
            next_clusters: BTreeMap::new(),
            leaving: BTreeMap::new(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            next_routes: BTreeMap::new(),
            scopes: BTreeMap::new(),
            route_clusters: BTreeMap::new(),
            on_demand: OnDemand::default(),
            virtual_hosts: BTreeMap::new(),
            incremental: false,
            endpoints: BTreeMap::new(),
            runtime_layers: Layers::default(),
            clusters_from: None,
            listeners_from: None,
            bindings,
            control,
            versions: BTreeMap::new(),
            origins: BTreeMap::new(),
            heard: BTreeSet::new(),
            started: false,
            updates: Updates::default(),
            ledger: Ledger::default(),
            references: Arc::default(),
            servers_changed: Arc::default(),
            wanted_changed,
            last_good: None,
            draining: false,
            stopped: false,
        }
    }

    pub(super) fn set_secret(&mut self, path: &Path, key: &str, message: Secret) -> Result<(), ConfigError> {
        self.names.secrets.set(path, key, message)?;
        self.settle();
        Ok(())
    }

    /// Makes the clusters of the bootstrap known.
    pub(crate) fn list_clusters(&self) {
        self.names.list_clusters();
    }

    /// Takes over a secret of the bootstrap.
    pub(crate) fn set_static_secret(&mut self, path: &Path, message: Secret) -> Result<(), ConfigError> {
        self.names.secrets.set_static(path, message)
    }

    /// Looks at the files that TLS contexts are made from.
    pub(crate) fn refresh_files(&mut self) {
        self.names.secrets.refresh();
    }

    /// The certificates of each TLS context in use.
    pub(crate) fn tls_material(&self) -> Vec<Material> {
        self.names.secrets.material()
    }

    /// Every file that access logs are written to.
    pub(crate) fn log_outputs(&self) -> Vec<Output> {
        self.names.logs.values().cloned().collect()
    }
}
