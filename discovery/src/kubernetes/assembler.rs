//! Puts the state together from changes of the three kinds, redoing only what a change touches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map::Entry},
    hash::Hash,
    mem,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    convert::{Slice, SliceId},
    transitions::{Seen, Transitions},
};
use crate::model::{Endpoint, EndpointPort, EndpointSet, Health, MeshState, Pod, PodId, Service, ServiceId};

/// How long [`MeshState::recent`] tells of a change: a reader that is slower has other problems.
const RECENT: Duration = Duration::from_secs(60);

/// A change of one kind of object.
#[derive(Debug)]
pub(super) enum TableEvent<K, V> {
    /// All objects follow, each as a [`Set`](Self::Set); those that do not are gone.
    Restart,
    /// All objects have followed.
    Restarted,
    /// The object is there and looks like this.
    Set(K, V),
    /// The object is gone.
    Remove(K),
    /// The object has no name: no API server sends that, and nothing can be done with it.
    Nothing,
}

/// A change of any kind.
#[derive(Debug)]
pub(super) enum Update {
    Service(TableEvent<ServiceId, Arc<Service>>),
    Slice(TableEvent<SliceId, Slice>),
    Pod(TableEvent<PodId, Arc<Pod>>),
    /// What the event that follows tells of the pod's readiness; `None` if the pod is gone.
    Seen(PodId, Option<Seen>),
}

/// The objects as the API server has them, and the state that follows from them.
///
/// Canonical are the three tables. Endpoint sets are derived from slices and pods, for one service at a time.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    services: Table<ServiceId, Arc<Service>>,
    slices: Table<SliceId, Slice>,
    pods: Table<PodId, Arc<Pod>>,
    /// The slices that name a service.
    slices_of: HashMap<ServiceId, BTreeSet<SliceId>>,
    /// The services whose *current* endpoint set names a pod.
    users_of: HashMap<PodId, BTreeSet<ServiceId>>,
    /// Services whose endpoint set may not be what slices and pods say.
    dirty: HashSet<ServiceId>,
    /// What caused changes of endpoints, and when.
    transitions: Transitions,
    /// Whether `state` differs from the one that was last taken.
    changed: bool,
    state: MeshState,
}

/// One kind of object, with the protocol of a Kubernetes watch.
#[derive(Debug)]
struct Table<K, V> {
    current: HashMap<K, V>,
    /// The keys seen since a restart began, while one is going on.
    seen: Option<HashSet<K>>,
    /// Whether a list was complete at least once.
    synced: bool,
}

// === impl Assembler ===

impl Assembler {
    /// Takes a change in.
    pub(super) fn apply(&mut self, update: Update) {
        match update {
            Update::Service(event) => {
                let changed = self.services.apply(event);
                if changed.is_empty() {
                    return;
                }
                let services = Arc::make_mut(&mut self.state.services);
                for (id, _) in changed {
                    match self.services.current.get(&id) {
                        Some(service) => drop(services.insert(id, service.clone())),
                        None => drop(services.remove(&id)),
                    }
                }
                self.changed = true;
            }
            Update::Pod(event) => {
                let changed = self.pods.apply(event);
                if changed.is_empty() {
                    return;
                }
                let pods = Arc::make_mut(&mut self.state.pods);
                for (id, _) in &changed {
                    let leaves = self.pods.current.get(id).is_some_and(|pod| pod.leaving);
                    if leaves != self.state.leaving.contains(id) {
                        let leaving = Arc::make_mut(&mut self.state.leaving);
                        let _ = if leaves { leaving.insert(id.clone()) } else { leaving.remove(id) };
                    }
                    match self.pods.current.get(id) {
                        Some(pod) => drop(pods.insert(id.clone(), pod.clone())),
                        None => drop(pods.remove(id)),
                    }
                    self.changed = true;
                    self.dirty.extend(self.users_of.get(id).into_iter().flatten().cloned());
                }
            }
            Update::Seen(id, seen) => self.transitions.see(id, seen),
            Update::Slice(event) => {
                for (id, old) in self.slices.apply(event) {
                    if let Some(old) = old {
                        if let Some(slices) = self.slices_of.get_mut(&old.service) {
                            slices.remove(&id);
                        }
                        self.dirty.insert(old.service);
                    }
                    if let Some(new) = self.slices.current.get(&id) {
                        self.slices_of.entry(new.service.clone()).or_default().insert(id);
                        self.dirty.insert(new.service.clone());
                    }
                }
            }
        }
    }

    /// The state, if it differs from the one that was last taken and all kinds were listed.
    ///
    /// A change of endpoints that no pod is known to have caused counts as caused `now`.
    pub(super) fn take(&mut self, now: SystemTime) -> Option<Arc<MeshState>> {
        if !(self.services.synced && self.slices.synced && self.pods.synced) {
            return None;
        }
        for service in mem::take(&mut self.dirty) {
            self.rebuild_endpoints(service, now);
        }
        let first = !self.state.is_synced();
        if !mem::take(&mut self.changed) && !first {
            return None;
        }
        self.state.version += 1;
        Some(Arc::new(self.state.clone()))
    }

    fn rebuild_endpoints(&mut self, service: ServiceId, now: SystemTime) {
        let slices = self.slices_of.get(&service);
        if slices.is_some_and(BTreeSet::is_empty) {
            self.slices_of.remove(&service);
        }
        let slices = self.slices_of.get(&service).into_iter().flatten();
        let new = endpoint_set(slices.filter_map(|id| self.slices.current.get(id)), &self.pods.current);
        let old = self.state.endpoints.get(&service);
        if old.map_or(new.endpoints.is_empty(), |old| **old == new) {
            return;
        }
        // What a pod did long ago is not why its endpoint changes now.
        let is_recent = |at: &SystemTime| now.duration_since(*at).unwrap_or_default() < RECENT;
        let cause = cause(old.map(Arc::as_ref), &new, &self.transitions).filter(is_recent).unwrap_or(now);
        let recent = Arc::make_mut(&mut self.state.recent);
        recent.retain(|_, at| is_recent(at));
        recent.insert(service.clone(), cause);
        for pod in old.into_iter().flat_map(|set| &set.endpoints).filter_map(|endpoint| endpoint.pod.as_ref())
        {
            if let Some(users) = self.users_of.get_mut(pod) {
                users.remove(&service);
                if users.is_empty() {
                    self.users_of.remove(pod);
                }
            }
        }
        for pod in new.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone()) {
            self.users_of.entry(pod).or_default().insert(service.clone());
        }
        let endpoints = Arc::make_mut(&mut self.state.endpoints);
        match new.endpoints.is_empty() {
            true => drop(endpoints.remove(&service)),
            false => drop(endpoints.insert(service, Arc::new(new))),
        }
        self.changed = true;
    }
}

/// When the last of the changes between two sets was caused; `None` if no pod is known to have caused any.
fn cause(old: Option<&EndpointSet>, new: &EndpointSet, transitions: &Transitions) -> Option<SystemTime> {
    let old = old.map(|set| set.endpoints.as_slice()).unwrap_or_default();
    // Both are sorted by address and ports; what is in both as it was is no change.
    let is_in = |set: &[Endpoint], endpoint: &Endpoint| {
        let key = |endpoint: &Endpoint| (endpoint.address, endpoint.ports.clone());
        set.binary_search_by_key(&key(endpoint), key).is_ok_and(|at| set[at] == *endpoint)
    };
    let changed = old.iter().filter(|endpoint| !is_in(&new.endpoints, endpoint));
    let changed = changed.chain(new.endpoints.iter().filter(|endpoint| !is_in(old, endpoint)));
    changed.filter_map(|endpoint| transitions.of(endpoint.pod.as_ref()?)).max()
}

/// The endpoints in `slices`. The same address with the same ports can be in two slices while the controller moves it:
/// then the healthier entry counts.
fn endpoint_set<'a>(slices: impl Iterator<Item = &'a Slice>, pods: &HashMap<PodId, Arc<Pod>>) -> EndpointSet {
    let mut found: BTreeMap<(IpAddr, Arc<[EndpointPort]>), Endpoint> = BTreeMap::new();
    let endpoints = slices.flat_map(|slice| slice.endpoints.iter().map(|found| (found, slice.follows_pods)));
    for (endpoint, follows_pod) in endpoints {
        let mut endpoint = endpoint.clone();
        if let Some(pod) = endpoint.pod.as_ref().and_then(|pod| pods.get(pod)) {
            endpoint.sidecar = pod.sidecar;
            // One of the same name at another address is another pod.
            if follows_pod && pod.address == Some(endpoint.address) {
                endpoint.health = health(pod, endpoint.health);
            }
        }
        match found.entry((endpoint.address, endpoint.ports.clone())) {
            Entry::Vacant(entry) => drop(entry.insert(endpoint)),
            Entry::Occupied(mut entry) if entry.get().health < endpoint.health => {
                drop(entry.insert(endpoint))
            }
            Entry::Occupied(_) => {}
        }
    }
    EndpointSet { endpoints: found.into_values().collect() }
}

/// What a pod says itself is newer than what a controller has made of it, unless that saw the pod's end first.
fn health(pod: &Pod, told: Health) -> Health {
    match (pod.leaving, pod.ready) {
        // Also where endpoints get requests before they are ready.
        (true, _) => Health::Draining,
        (false, false) => Health::NotReady,
        (false, true) if told == Health::Draining => Health::Draining,
        (false, true) => Health::Ready,
    }
}

// === impl Table ===

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { current: HashMap::new(), seen: None, synced: false }
    }
}

impl<K: Hash + Eq + Clone, V: PartialEq> Table<K, V> {
    /// Takes an event in; returns what differs since, each with the value before.
    ///
    /// During a restart the objects that follow replace those there are one by one, and those that did not follow go
    /// at its end: readers never see a half-empty table.
    fn apply(&mut self, event: TableEvent<K, V>) -> Vec<(K, Option<V>)> {
        match event {
            TableEvent::Restart => {
                self.seen = Some(HashSet::new());
                vec![]
            }
            TableEvent::Restarted => {
                self.synced = true;
                let Some(seen) = self.seen.take() else { return vec![] };
                let gone: Vec<K> = self.current.keys().filter(|key| !seen.contains(*key)).cloned().collect();
                gone.into_iter().map(|key| (key.clone(), self.current.remove(&key))).collect()
            }
            TableEvent::Set(key, value) => {
                if let Some(seen) = &mut self.seen {
                    seen.insert(key.clone());
                }
                if self.current.get(&key) == Some(&value) {
                    return vec![];
                }
                let old = self.current.insert(key.clone(), value);
                vec![(key, old)]
            }
            TableEvent::Remove(key) => match self.current.remove(&key) {
                Some(old) => vec![(key, Some(old))],
                None => vec![],
            },
            TableEvent::Nothing => vec![],
        }
    }
}

#[cfg(test)]
mod tests;
