//! What is in force: the only writer of everything that the data threads read.
//!
//! # Guarantees
//! * A resource is compiled completely before any of it is put in place; one that does not compile changes nothing.
//! * An update of endpoints touches nothing but the set of the clusters that use it.
//! * A listener is put in place only when the route tables and secrets that it names are there and the clusters that they
//!   lead to are warm, so that it never answers 404 or 503 or fails a handshake for want of an update that is on its way.
//!   Route tables and clusters that change serve as they were for as long.

mod clusters;
mod extensions;
mod given;
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
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
};
use weft_xds::{
    Rejected, ResourceType, ResourceUpdate, any,
    pb::envoy::{
        config::{
            endpoint::v3::ClusterLoadAssignment,
            listener::v3::Listener as ProtoListener,
            route::v3::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost},
        },
        extensions::transport_sockets::tls::v3::Secret,
    },
};

pub(crate) use self::updates::Updates;
use self::{
    clusters::ClusterEntry, on_demand::OnDemand, routes::NextTable, runtime::Layers, warming::Warming,
};
use super::{
    ConfigError, Path, endpoint,
    extensions::Asked,
    known::Ledger,
    last_good::{LastGood, Origin},
    listener,
    names::Names,
    source::Source,
};
use crate::{
    access_log::writer::Output,
    listener::{Bound, Listener, ListenerSlot},
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

/// Which listeners are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those whose `traffic_direction` is INBOUND.
    Inbound,
}

/// A listener with what it was made from.
pub(crate) struct ListenerEntry {
    pub(crate) message: ProtoListener,
    pub(crate) from_file: bool,
    /// In force; `None` until it was first put in place.
    pub(crate) slot: Option<Arc<ListenerSlot>>,
    pub(crate) bound: Option<Arc<Bound>>,
    /// Compiled, and waiting for route tables.
    pending: Option<Arc<Listener>>,
    warming: Warming,
    routes: BTreeSet<String>,
    extensions: Asked,
    /// Whether it has a route table for each scope.
    scoped: bool,
    /// Named by the listener itself, not by its route tables.
    clusters: BTreeSet<String>,
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

    /// Compiles and puts in place one listener, or lets it wait for its route tables.
    pub(crate) fn set_listener(
        &mut self,
        path: &Path,
        message: ProtoListener,
        from_file: bool,
    ) -> Result<(), ConfigError> {
        let key = match message.name.as_str() {
            // As in Envoy a static listener needs no name; its address is unique enough.
            "" => format!("{:?}", message.address),
            name => name.to_owned(),
        };
        let entry = self.listeners.get(&key);
        if let Some(entry) = entry {
            if entry.from_file && !from_file {
                return Err(path.field("name").error(format!("{key:?} is a static listener")));
            }
            if entry.message == message {
                return Ok(());
            }
        }
        self.names.asked_routes.clear();
        self.names.extensions.asked = Asked::default();
        self.names.scopes.asked = false;
        self.names.asked_clusters.clear();
        self.names.patience = self.names.secrets.take_patience();
        let compiled = Arc::new(listener::compile(path, &message, &self.shared, &mut self.names)?);
        let routes = std::mem::take(&mut self.names.asked_routes);
        let extensions = std::mem::take(&mut self.names.extensions.asked);
        let clusters = std::mem::take(&mut self.names.asked_clusters);
        let scoped = std::mem::take(&mut self.names.scopes.asked);
        let patience = std::mem::take(&mut self.names.patience).and(self.names.secrets.take_patience());
        let warming = Warming::new(patience);
        let previous =
            entry.and_then(|entry| entry.slot.as_ref().map(|slot| (Arc::clone(slot), entry.bound.clone())));
        // A listener that stays where it is keeps its sockets, and with them the connections that wait in them.
        let stays = previous.filter(|(slot, _)| {
            let current = slot.get();
            current.address == compiled.address
                && current.bind_to_port == compiled.bind_to_port
                && current.reuse_port == compiled.reuse_port
        });
        let (slot, bound) = match stays {
            Some((slot, bound)) => (Some(slot), bound),
            None if compiled.bind_to_port && !self.stopped => {
                // Bound before anything is changed: an address that is taken refuses the update.
                let slot = Arc::new(ListenerSlot::new(Arc::clone(&compiled)));
                let bound = Bound::open(&slot, self.shared.workers).map_err(|error| {
                    path.field("address").error(format!("cannot listen on {}: {error}", compiled.address))
                })?;
                (None, Some(Arc::new(bound)))
            }
            None => (None, None),
        };
        if let Some(old) = self.listeners.remove(&key)
            && slot.is_none()
        {
            old.retire();
        }
        self.listeners.insert(
            key,
            ListenerEntry {
                message,
                from_file,
                slot,
                bound,
                pending: Some(compiled),
                warming,
                routes,
                extensions,
                scoped,
                clusters,
            },
        );
        if scoped {
            self.place_scopes();
        }
        self.settle();
        Ok(())
    }

    fn set_secret(&mut self, path: &Path, key: &str, message: Secret) -> Result<(), ConfigError> {
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

    fn set_endpoints(
        &mut self,
        path: &Path,
        key: &str,
        message: ClusterLoadAssignment,
    ) -> Result<(), ConfigError> {
        // Whoever uses it, it must be one that can be used.
        endpoint::named(path, &message)?;
        for entry in self.all_clusters() {
            if entry.cluster.discovery.key().as_deref() == Some(key) {
                let set = endpoint::compile(path, &message, &entry.cluster.endpoints.load())?;
                entry.cluster.replace_endpoints(set);
            }
        }
        self.endpoints.insert(key.to_owned(), message);
        Ok(())
    }

    /// As in Envoy, a cluster whose endpoints do not exist has none and waits no more; what it had, it keeps.
    fn remove_endpoints(&mut self, key: &str) {
        if !self.asked_endpoints().contains(key) {
            self.endpoints.remove(key);
        }
        for entry in self.clusters.values_mut() {
            if !entry.cluster.is_known() && entry.cluster.discovery.key().as_deref() == Some(key) {
                entry.warming.give_up();
            }
        }
    }

    fn remove(&mut self, type_: ResourceType, name: &str) {
        match type_ {
            ResourceType::Cluster => self.remove_cluster(name),
            ResourceType::Listener => {
                if self.listeners.get(name).is_some_and(|entry| !entry.from_file)
                    && let Some(entry) = self.listeners.remove(name)
                {
                    entry.retire();
                    self.publish();
                }
            }
            // Whoever refers to these goes with its own type; until then the last good one serves.
            ResourceType::RouteConfiguration => self.remove_routes(name),
            ResourceType::ClusterLoadAssignment => self.remove_endpoints(name),
            ResourceType::Runtime => self.remove_runtime(name),
            ResourceType::ExtensionConfig => self.remove_extension(name),
            ResourceType::ScopedRouteConfiguration => {
                self.scopes.remove(name);
            }
            // Tables go with their virtual hosts elsewhere.
            ResourceType::Secret | ResourceType::VirtualHost => {}
        }
    }

    /// Who asked for something by this name has it, under its own.
    fn is_known_as(&mut self, type_: ResourceType, name: &str, alias: &str) {
        match type_ {
            ResourceType::Cluster => self.shared.wanted_clusters.found(alias),
            ResourceType::VirtualHost => self.names.demand.found(alias),
            ResourceType::Listener => {
                self.on_demand.found(alias, name);
                self.publish();
            }
            _ => {}
        }
    }

    /// Tells the workers which listeners there are.
    fn publish(&self) {
        let mut by_address = HashMap::new();
        let mut bound = Vec::new();
        for entry in self.listeners.values() {
            let Some(slot) = &entry.slot else { continue };
            by_address.insert(slot.get().address, Arc::clone(slot));
            bound.extend(entry.bound.clone());
        }
        for (address, name) in self.on_demand.aliases() {
            if let Some(slot) = self.listeners.get(name).and_then(|entry| entry.slot.as_ref()) {
                by_address.entry(address).or_insert_with(|| Arc::clone(slot));
            }
        }
        self.shared.by_address.store(Arc::new(by_address));
        // Workers that drain have taken down their listeners for good.
        self.bindings.send_if_modified(|current| match current {
            Some(current) => {
                *current = Arc::new(bound);
                true
            }
            None => false,
        });
    }

    /// Tells the connections of these listeners to go.
    pub(crate) fn drain_listeners(&mut self, which: Which) {
        self.draining = true;
        if which == Which::All {
            self.shared.drain.begin();
        }
        for slot in self.listeners.values().filter_map(|entry| entry.slot.as_ref()) {
            let listener = slot.get();
            if which == Which::All || listener.inbound {
                listener.drain.begin();
            }
        }
    }

    /// Closes the listening sockets of these listeners; connections go on. What is returned is gone when the last
    /// connection ended, those included that waited in the sockets to be accepted.
    pub(crate) fn stop_listening(&mut self, which: Which) -> Vec<Weak<Bound>> {
        self.stopped |= which == Which::All;
        let mut closing = Vec::new();
        for entry in self.listeners.values_mut() {
            if which == Which::All || entry.slot.as_ref().is_some_and(|slot| slot.get().inbound) {
                closing.extend(entry.bound.take().as_ref().map(Arc::downgrade));
            }
        }
        let left: Vec<_> = self.listeners.values().filter_map(|entry| entry.bound.clone()).collect();
        self.bindings.send_modify(|current| {
            if let Some(current) = current {
                *current = Arc::new(left);
            }
        });
        closing
    }

    /// Whether the workers have taken every listening socket. One that is closed before resets whoever waits in it.
    pub(crate) fn is_listening_everywhere(&self) -> bool {
        self.listeners.values().filter_map(|entry| entry.bound.as_ref()).all(|bound| bound.is_taken())
    }

    /// Every file that access logs are written to.
    pub(crate) fn log_outputs(&self) -> Vec<Output> {
        self.names.logs.values().cloned().collect()
    }

    /// Ends the workers.
    pub(crate) fn stop_workers(&self) {
        self.bindings.send_replace(None);
    }

    /// Takes over a change from an xDS server.
    pub(crate) fn apply(&mut self, mut update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        let mut rejected = Vec::new();
        let type_ = update.type_;
        self.heard.insert(type_);
        let aliases: Vec<(String, String)> = update
            .upserts
            .iter_mut()
            .flat_map(|resource| {
                let aliases = std::mem::take(&mut resource.aliases);
                aliases.into_iter().map(|alias| (alias, resource.name.clone()))
            })
            .collect();
        let mut changing = match type_ {
            ResourceType::ScopedRouteConfiguration => Self::changing(&update),
            _ => BTreeSet::new(),
        };
        for resource in update.upserts {
            let path = Path::root(&type_.to_string()).field(&resource.name);
            let result = match type_ {
                ResourceType::Cluster => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_cluster(&path, message, false)),
                ResourceType::ClusterLoadAssignment => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_endpoints(&path, &resource.name, message)),
                ResourceType::Listener => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_listener(&path, message, false)),
                ResourceType::RouteConfiguration => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_routes(&path, &resource.name, message)),
                ResourceType::Secret => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_secret(&path, &resource.name, message)),
                ResourceType::Runtime => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_runtime(&path, &resource.name, message)),
                ResourceType::ExtensionConfig => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_extension(&path, &resource.name, message)),
                ResourceType::ScopedRouteConfiguration => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_scope(&path, message, &mut changing)),
                ResourceType::VirtualHost => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_virtual_host(&path, &resource.name, message, &mut changing)),
            };
            let version = if resource.version.is_empty() { &update.version } else { &resource.version };
            if let Err(error) = &result {
                self.ledger.rejected(type_, &resource.name, version, error.to_string());
            } else {
                self.ledger.accepted(type_, &resource.name, version);
            }
            if let Err(error) = result {
                tracing::warn!(type_ = %type_, resource = %resource.name, %error, "configuration rejected");
                rejected.push(Rejected { name: resource.name, reason: error.to_string() });
            }
        }
        for name in update.removed {
            match type_ {
                ResourceType::VirtualHost => self.remove_virtual_host(&name, &mut changing),
                ResourceType::Cluster => self.shared.wanted_clusters.absent(&name),
                ResourceType::Listener => self.on_demand.absent(&name),
                _ => {}
            }
            self.remove(type_, &name);
            self.ledger.removed(type_, &name);
        }
        match type_ {
            ResourceType::Cluster => self.names.list_clusters(),
            ResourceType::ScopedRouteConfiguration => self.place_scopes(),
            ResourceType::VirtualHost => self.place_virtual_hosts(&changing),
            _ => {}
        }
        for (alias, name) in aliases {
            if !rejected.iter().any(|rejected| rejected.name == name) {
                self.is_known_as(type_, &name, &alias);
            }
        }
        if self.is_waiting() {
            self.settle();
        }
        self.started |= self.are_all_warm();
        self.tell_of_clusters();
        self.names.forget_unused();
        self.shared.registry.forget_unused();
        self.forget_unasked();
        self.answer_asks();
        self.references.notify_one();
        self.servers_changed.notify_one();
        if rejected.is_empty() {
            self.updates.accepted(type_);
            self.versions.insert(type_.to_string(), update.version);
            Ok(())
        } else {
            self.updates.rejected(type_);
            self.settle();
            Err(rejected)
        }
    }
}

fn unpack<M>(path: &Path, result: Result<M, any::UnpackError>) -> Result<M, ConfigError> {
    super::value::unpacked(path, result)
}

// === impl ListenerEntry ===

impl ListenerEntry {
    /// Whether it waits to be put in place.
    fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Lets the connections of a listener that is gone end in order.
    fn retire(self) {
        if let Some(slot) = self.slot {
            slot.get().drain.begin();
        }
    }
}
