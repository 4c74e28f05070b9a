//! What is in force: the only writer of everything that the data threads read.
//!
//! # Guarantees
//! * A resource is compiled completely before any of it is put in place; one that does not compile changes nothing.
//! * An update of endpoints touches nothing but the set of the clusters that use it.
//! * A listener is put in place only when the route tables that it names are there, so that it never answers 404 for want
//!   of an update that is on its way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{runtime::Handle, sync::watch};
use weft_xds::{
    Rejected, ResourceType, ResourceUpdate, Subscriptions, any,
    pb::envoy::config::{
        cluster::v3::Cluster as ProtoCluster, endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener as ProtoListener, route::v3::RouteConfiguration,
    },
};

use super::{ConfigError, Path, cluster, endpoint, listener, route};
use crate::{
    access_log::writer::Output,
    cluster::{Cluster, ClusterSlot, Discovery, endpoint::EndpointSet, manager::Tasks},
    listener::{Bound, Listener, ListenerSlot},
    route::RouteSlot,
    worker::{Shared, threads::Bindings},
};

/// Names that one resource uses to refer to another, before and after the other is known.
#[derive(Debug)]
pub(crate) struct Names {
    clusters: HashMap<String, Arc<ClusterSlot>>,
    routes: HashMap<String, Arc<RouteSlot>>,
    logs: HashMap<String, Output>,
    log_lines_dropped: Arc<AtomicU64>,
    /// Route tables that were asked for by name since this was last emptied.
    asked_routes: BTreeSet<String>,
}

/// Everything in force.
pub(crate) struct State {
    pub(crate) shared: Arc<Shared>,
    names: Names,
    pub(crate) clusters: BTreeMap<String, ClusterEntry>,
    pub(crate) listeners: BTreeMap<String, ListenerEntry>,
    pub(crate) routes: BTreeMap<String, RouteConfiguration>,
    pub(crate) endpoints: BTreeMap<String, ClusterLoadAssignment>,
    bindings: watch::Sender<Bindings>,
    runtime: Handle,
    /// Versions that the server gave, by type, for `/config_dump`.
    pub(crate) versions: BTreeMap<String, String>,
    /// Types of which the server has told at least once.
    pub(crate) heard: BTreeSet<ResourceType>,
    pub(crate) updates: Updates,
}

/// How many updates there were.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Updates {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) connected: bool,
}

/// A cluster with what it was made from.
pub(crate) struct ClusterEntry {
    pub(crate) message: ProtoCluster,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) from_file: bool,
    _tasks: Tasks,
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
    routes: BTreeSet<String>,
}

// === impl Names ===

impl Names {
    pub(crate) fn new(log_lines_dropped: Arc<AtomicU64>) -> Self {
        Self {
            clusters: HashMap::new(),
            routes: HashMap::new(),
            logs: HashMap::new(),
            log_lines_dropped,
            asked_routes: BTreeSet::new(),
        }
    }

    /// Every cluster that was referred to.
    pub(crate) fn cluster_names(&self) -> impl Iterator<Item = &String> {
        self.clusters.keys()
    }

    /// The place of the cluster of this name.
    pub(crate) fn cluster(&mut self, name: &str) -> Arc<ClusterSlot> {
        let slot = self.clusters.entry(name.to_owned()).or_insert_with(|| Arc::new(ClusterSlot::empty()));
        Arc::clone(slot)
    }

    /// The place of the route table of this name.
    pub(crate) fn route(&mut self, name: &str) -> Arc<RouteSlot> {
        self.asked_routes.insert(name.to_owned());
        Arc::clone(self.routes.entry(name.to_owned()).or_insert_with(|| Arc::new(RouteSlot::empty())))
    }

    /// The writer for an access log file: one per path, however many configurations name it.
    pub(crate) fn log_output(&mut self, path: &str) -> io::Result<Output> {
        if let Some(output) = self.logs.get(path) {
            return Ok(output.clone());
        }
        let output = Output::open(path, &self.log_lines_dropped)?;
        self.logs.insert(path.to_owned(), output.clone());
        Ok(output)
    }

    fn forget_unused(&mut self) {
        self.clusters.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.get().is_some());
        self.routes.retain(|_, slot| Arc::strong_count(slot) > 1);
    }
}

// === impl State ===

impl State {
    pub(crate) fn new(shared: Arc<Shared>, bindings: watch::Sender<Bindings>, runtime: Handle) -> Self {
        let names = Names::new(Arc::clone(&shared.log_lines_dropped));
        Self {
            shared,
            names,
            clusters: BTreeMap::new(),
            listeners: BTreeMap::new(),
            routes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            bindings,
            runtime,
            versions: BTreeMap::new(),
            heard: BTreeSet::new(),
            updates: Updates::default(),
        }
    }

    /// Compiles and puts in place one cluster.
    pub(crate) fn set_cluster(
        &mut self,
        path: &Path,
        message: ProtoCluster,
        from_file: bool,
    ) -> Result<(), ConfigError> {
        let entry = self.clusters.get(&message.name);
        if let Some(entry) = entry {
            if entry.from_file && !from_file {
                return Err(path.field("name").error(format!("{:?} is a static cluster", message.name)));
            }
            if entry.message == message {
                return Ok(());
            }
        }
        let before = entry.map(|entry| Arc::clone(&entry.cluster));
        let compiled = Arc::new(cluster::compile(path, &message, &self.shared, before.as_deref())?);
        if let Discovery::Eds { service_name } = &compiled.discovery
            && !compiled.endpoints.load().known
            && let Some(assignment) = self.endpoints.get(service_name)
        {
            let hosts = endpoint::compile(&Path::root("endpoints"), assignment)?;
            compiled.replace_endpoints(EndpointSet::new(&hosts, &compiled.endpoints.load()));
        }
        if let Some(before) = before {
            let kept = compiled.endpoints.load();
            for host in &before.endpoints.load().hosts {
                if kept.find(host.endpoint.address).is_none() {
                    host.endpoint.mark_gone();
                }
            }
        }
        self.names.cluster(&message.name).set(Some(Arc::clone(&compiled)));
        let tasks = Tasks::start(&compiled, &self.runtime);
        let name = message.name.clone();
        self.clusters.insert(name, ClusterEntry { message, cluster: compiled, from_file, _tasks: tasks });
        Ok(())
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
        let compiled = Arc::new(listener::compile(path, &message, &self.shared, &mut self.names)?);
        let routes = std::mem::take(&mut self.names.asked_routes);
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
            None if compiled.bind_to_port => {
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
        self.listeners
            .insert(key, ListenerEntry { message, from_file, slot, bound, pending: Some(compiled), routes });
        self.settle();
        Ok(())
    }

    fn set_routes(&mut self, path: &Path, message: RouteConfiguration) -> Result<(), ConfigError> {
        if self.routes.get(&message.name) == Some(&message) {
            return Ok(());
        }
        let table = route::compile(path, &message, &mut self.names)?;
        self.names.route(&message.name).set(Some(Arc::new(table)));
        self.routes.insert(message.name.clone(), message);
        self.settle();
        Ok(())
    }

    fn set_endpoints(&mut self, path: &Path, message: ClusterLoadAssignment) -> Result<(), ConfigError> {
        let hosts = endpoint::compile(path, &message)?;
        for entry in self.clusters.values() {
            if matches!(&entry.cluster.discovery, Discovery::Eds { service_name } if *service_name == message.cluster_name)
            {
                let set = EndpointSet::new(&hosts, &entry.cluster.endpoints.load());
                entry.cluster.replace_endpoints(set);
            }
        }
        self.endpoints.insert(message.cluster_name.clone(), message);
        Ok(())
    }

    fn remove(&mut self, type_: ResourceType, name: &str) {
        match type_ {
            ResourceType::Cluster => {
                if self.clusters.get(name).is_some_and(|entry| !entry.from_file)
                    && let Some(entry) = self.clusters.remove(name)
                {
                    self.names.cluster(name).set(None);
                    for host in &entry.cluster.endpoints.load().hosts {
                        host.endpoint.mark_gone();
                    }
                }
            }
            ResourceType::Listener => {
                if self.listeners.get(name).is_some_and(|entry| !entry.from_file)
                    && let Some(entry) = self.listeners.remove(name)
                {
                    entry.retire();
                    self.publish();
                }
            }
            // Whoever refers to these goes with its own type; until then the last good one serves.
            ResourceType::RouteConfiguration => {
                let used = self.listeners.values().any(|entry| entry.routes.contains(name));
                if !used {
                    self.routes.remove(name);
                }
            }
            ResourceType::ClusterLoadAssignment => {
                if !self.wanted().endpoints.contains(name) {
                    self.endpoints.remove(name);
                }
            }
            ResourceType::Secret => {}
        }
    }

    /// Puts in place the listeners whose route tables are there.
    fn settle(&mut self) {
        let mut changed = false;
        for entry in self.listeners.values_mut() {
            if entry.pending.is_none() || !entry.routes.iter().all(|name| self.routes.contains_key(name)) {
                continue;
            }
            let Some(listener) = entry.pending.take() else { continue };
            tracing::info!(listener = %listener.name, address = %listener.address, "listener ready");
            match (&entry.slot, &entry.bound) {
                (Some(slot), _) => slot.replace(listener),
                (None, Some(bound)) => entry.slot = Some(Arc::clone(&bound.slot)),
                (None, None) => entry.slot = Some(Arc::new(ListenerSlot::new(listener))),
            }
            changed = true;
        }
        if changed {
            self.publish();
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

    /// Closes all listening sockets; connections go on.
    pub(crate) fn stop_listening(&mut self) {
        for entry in self.listeners.values_mut() {
            entry.bound = None;
        }
        self.bindings.send_modify(|current| {
            if let Some(current) = current {
                *current = Arc::default();
            }
        });
    }

    /// Ends the workers.
    pub(crate) fn stop_workers(&self) {
        self.bindings.send_replace(None);
    }

    /// Takes over a change from an xDS server.
    pub(crate) fn apply(&mut self, update: ResourceUpdate) -> Result<(), Vec<Rejected>> {
        let mut rejected = Vec::new();
        let type_ = update.type_;
        self.heard.insert(type_);
        for resource in update.upserts {
            let path = Path::root(&type_.to_string()).field(&resource.name);
            let result = match type_ {
                ResourceType::Cluster => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_cluster(&path, message, false)),
                ResourceType::ClusterLoadAssignment => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_endpoints(&path, message)),
                ResourceType::Listener => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_listener(&path, message, false)),
                ResourceType::RouteConfiguration => unpack(&path, any::unpack(&resource.body))
                    .and_then(|message| self.set_routes(&path, message)),
                ResourceType::Secret => Err(path.error("secrets are not supported")),
            };
            if let Err(error) = result {
                tracing::warn!(type_ = %type_, resource = %resource.name, %error, "configuration rejected");
                rejected.push(Rejected { name: resource.name, reason: error.to_string() });
            }
        }
        for name in update.removed {
            self.remove(type_, &name);
        }
        self.names.forget_unused();
        self.shared.registry.forget_unused();
        if rejected.is_empty() {
            self.updates.accepted += 1;
            self.versions.insert(type_.to_string(), update.version);
            Ok(())
        } else {
            self.updates.rejected += 1;
            Err(rejected)
        }
    }

    /// What the configuration in force refers to and an xDS server has to give.
    pub(crate) fn wanted(&self) -> Subscriptions {
        let mut wanted = Subscriptions::default();
        for entry in self.clusters.values() {
            if let Discovery::Eds { service_name } = &entry.cluster.discovery {
                wanted.endpoints.insert(service_name.clone());
            }
        }
        for entry in self.listeners.values() {
            wanted.routes.extend(entry.routes.iter().cloned());
        }
        wanted
    }

    /// Whether everything that was configured serves: listeners have their route tables, clusters their endpoints.
    pub(crate) fn is_settled(&self) -> bool {
        self.listeners.values().all(|entry| entry.pending.is_none())
            && self.clusters.values().all(|entry| {
                !matches!(entry.cluster.discovery, Discovery::Eds { .. })
                    || entry.cluster.endpoints.load().known
            })
    }
}

fn unpack<M>(path: &Path, result: Result<M, any::UnpackError>) -> Result<M, ConfigError> {
    super::value::unpacked(path, result)
}

// === impl ListenerEntry ===

impl ListenerEntry {
    /// Lets the connections of a listener that is gone end in order.
    fn retire(self) {
        if let Some(slot) = self.slot {
            slot.get().draining.store(true, Ordering::Relaxed);
        }
    }
}
