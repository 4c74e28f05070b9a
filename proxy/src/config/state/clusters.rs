//! Clusters: what is in force, what is to follow it, and what goes.
//!
//! # Guarantees
//! * As in Envoy, a cluster that changes serves as it was until it has the endpoints and secrets that the change needs, or
//!   these were waited for long enough.
//! * One that is taken back goes on for as long as routes or listeners are in force that are about to be replaced: those
//!   may lead to it, whatever the server believes.

use std::{collections::HashSet, sync::Arc};

use weft_xds::pb::envoy::config::cluster::v3::Cluster as ProtoCluster;

use super::{ListenerEntry, State, warming::Warming};
use crate::{
    cluster::{Cluster, manager::Tasks},
    config::{ConfigError, Path, cluster, endpoint, source::Patience},
};

/// A cluster with what it was made from.
pub(crate) struct ClusterEntry {
    pub(crate) message: ProtoCluster,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) from_file: bool,
    pub(super) warming: Warming,
    _tasks: Tasks,
}

// === impl ClusterEntry ===

impl ClusterEntry {
    /// Whether it has its endpoints and secrets.
    pub(super) fn is_ready(&self) -> bool {
        self.cluster.is_known() && self.cluster.tls.as_ref().is_none_or(|tls| tls.is_ready())
    }

    /// The same, or what is missing was waited for long enough.
    pub(super) fn is_warm(&self) -> bool {
        self.is_ready() || self.warming.is_over()
    }

    /// Whether what leads to it should wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        !self.is_ready() && self.warming.holds_others()
    }
}

// === impl State ===

impl State {
    /// Compiles a cluster, and puts it in place unless another one serves until it is warm.
    pub(crate) fn set_cluster(
        &mut self,
        path: &Path,
        message: ProtoCluster,
        from_file: bool,
    ) -> Result<(), ConfigError> {
        let name = message.name.clone();
        if let Some(back) = self.leaving.remove(&name) {
            self.clusters.insert(name.clone(), back);
        }
        let entry = self.clusters.get(&name);
        if let Some(entry) = entry {
            if entry.from_file && !from_file {
                return Err(path.field("name").error(format!("{name:?} is a static cluster")));
            }
            if entry.message == message {
                self.drop_next(&name);
                return Ok(());
            }
            if self.next_clusters.get(&name).is_some_and(|next| next.message == message) {
                return Ok(());
            }
        }
        let before = entry.map(|entry| Arc::clone(&entry.cluster));
        self.names.secrets.take_patience();
        let source = message.eds_cluster_config.as_ref().and_then(|config| config.eds_config.as_ref());
        let patience = Patience::read(&path.field("eds_cluster_config.eds_config"), source)?;
        let compiled =
            Arc::new(cluster::compile(path, &message, &self.shared, &mut self.names, before.as_deref())?);
        if let Some(key) = compiled.discovery.key()
            && !compiled.endpoints.load().known
            && let Some(assignment) = self.endpoints.get(&key)
        {
            let path = Path::root("endpoints");
            compiled.replace_endpoints(endpoint::compile(&path, assignment, &compiled.endpoints.load())?);
        }
        let tasks = Tasks::start(&compiled, &self.control);
        let warming = Warming::new(patience.and(self.names.secrets.take_patience()));
        let entry = ClusterEntry { message, cluster: compiled, from_file, warming, _tasks: tasks };
        self.drop_next(&name);
        if before.is_some() && !entry.is_warm() {
            tracing::debug!(cluster = name, "the one before serves until this one is warm");
            self.next_clusters.insert(name, entry);
        } else {
            self.place_cluster(name, entry);
        }
        Ok(())
    }

    /// The server has it no more.
    pub(super) fn remove_cluster(&mut self, name: &str) {
        if self.clusters.get(name).is_some_and(|entry| !entry.from_file)
            && let Some(entry) = self.clusters.remove(name)
        {
            self.drop_next(name);
            if self.is_about_to_replace() {
                self.leaving.insert(name.to_owned(), entry);
            } else {
                self.let_cluster_go(name, &entry);
            }
        }
    }

    /// All that are in force or to follow one that is.
    pub(super) fn all_clusters(&self) -> impl Iterator<Item = &ClusterEntry> {
        self.clusters.values().chain(self.next_clusters.values())
    }

    /// Puts those in place that are warm by now.
    pub(super) fn place_next_clusters(&mut self) {
        let warm: Vec<_> = self.next_clusters.extract_if(.., |_, next| next.is_warm()).collect();
        for (name, next) in warm {
            self.place_cluster(name, next);
        }
    }

    /// Has those go that stayed for what was about to be replaced, once that is.
    pub(super) fn let_clusters_go(&mut self) {
        if !self.leaving.is_empty() && !self.is_about_to_replace() {
            for (name, entry) in std::mem::take(&mut self.leaving) {
                self.let_cluster_go(&name, &entry);
            }
            self.names.list_clusters();
        }
    }

    /// Tells who waits for clusters which of them are there, with their endpoints.
    pub(super) fn tell_of_clusters(&self) {
        for name in self.shared.wanted_clusters.waited() {
            if self.clusters.get(&name).is_some_and(|entry| entry.cluster.is_known()) {
                self.shared.wanted_clusters.found(&name);
            }
        }
    }

    fn place_cluster(&mut self, name: String, entry: ClusterEntry) {
        let cluster = &entry.cluster;
        if let Some(before) = self.clusters.get(&name) {
            let kept = cluster.endpoints.load();
            let kept: HashSet<_> = kept.hosts.iter().map(|host| host.endpoint.address).collect();
            for host in &before.cluster.endpoints.load().hosts {
                if !kept.contains(&host.endpoint.address) {
                    host.endpoint.mark_gone();
                }
            }
        }
        self.names.cluster(&name).set(Some(Arc::clone(cluster)));
        // Made once without knowing where proxies like this one are, and without counting.
        cluster.refresh();
        self.clusters.insert(name, entry);
    }

    /// What was to follow a cluster does not.
    fn drop_next(&mut self, name: &str) {
        if self.next_clusters.remove(name).is_some()
            && let Some(entry) = self.clusters.get(name)
        {
            // Both counted in the same place.
            entry.cluster.refresh();
        }
    }

    fn let_cluster_go(&mut self, name: &str, entry: &ClusterEntry) {
        self.names.cluster(name).set(None);
        if let Some(local) = self.shared.local.as_ref().filter(|local| local.name == name) {
            local.tell();
        }
        for host in &entry.cluster.endpoints.load().hosts {
            host.endpoint.mark_gone();
        }
    }

    /// Whether clusters that go stay for something that is soon to be replaced. They also stay for a listener whose
    /// successor waits for ever, but who took them back is not to wait for that.
    pub(super) fn leaving_is_awaited(&self) -> bool {
        let waits =
            |entry: &ListenerEntry| entry.slot.is_some() && entry.is_pending() && !entry.warming.is_alone();
        !self.leaving.is_empty() && (!self.next_routes.is_empty() || self.listeners.values().any(waits))
    }

    /// Whether routes or a listener are in force that are to be replaced by others, which wait.
    fn is_about_to_replace(&self) -> bool {
        !self.next_routes.is_empty()
            || self.listeners.values().any(|entry| entry.slot.is_some() && entry.is_pending())
    }
}
