//! Which pods are to go, and for whom each waits. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;
use weft_api::mesh::ProxyId;
use weft_discovery::model::{Endpoint, MeshState, PodId, ServiceId};
use weft_xds::session::Version;

use super::{LOOK, LOOK_FOR_RETURN, PATIENCE, RECENT, RETURN};
use crate::{catalog::carried, publisher::Given, resources::endpoints::gets_requests};

/// The ids of proxies, each with the version of an endpoint set that it is known to have.
type Holders = Vec<(String, Option<Version>)>;

/// What is known of the proxies.
pub(super) trait Proxies {
    /// The connected proxies that asked for an endpoint set.
    fn holders(&self, set: &str) -> Holders;

    /// Whether the proxy is connected and asked for endpoints: before that, it is no holder of what it has.
    fn has_asked(&self, id: &str) -> bool;
}

/// What there is to tell of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No proxy sends anything to it any more.
    Out,
    /// These may.
    Behind(Vec<String>),
}

/// Canonical is `pods`: those that are leaving, as of `state`.
#[derive(Debug, Default)]
pub(super) struct Waits {
    state: Arc<MeshState>,
    pods: BTreeMap<PodId, Wait>,
    /// Proxies of which it is not known what they have, and until when they may come back with it.
    absent: BTreeMap<String, Instant>,
    /// Until when proxies may come back to a control that has just started; `None` before the mesh is known. Who they are
    /// nobody knows: proxies that are no pods of the mesh come and go as they like.
    strangers_until: Option<Instant>,
    /// Who had asked for each endpoint set at the last look: who has gone since may not be told of as lost yet.
    listed: BTreeMap<String, Holders>,
    /// Pods that stay, by the services that they were behind, with the names of the endpoint sets and until when that counts.
    recent: BTreeMap<PodId, BTreeMap<ServiceId, Recent>>,
}

#[derive(Debug)]
struct Wait {
    uid: String,
    since: Instant,
    /// By the names of the endpoint sets that had it.
    sets: BTreeMap<String, Without>,
    told: Told,
}

/// What a pod was behind.
#[derive(Debug)]
struct Recent {
    sets: Vec<String>,
    until: Instant,
}

/// Versions of an endpoint set without a pod.
#[derive(Debug)]
struct Without {
    service: ServiceId,
    /// In the order in which they were given; `None` where the set was gone.
    versions: Vec<Option<Version>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Behind,
    Out,
}

/// In the place of a name.
const STRANGERS: &str = "proxies that may not have returned since control started";

// === impl Waits ===

impl Waits {
    /// Takes note of a proxy that lost its connection.
    pub(super) fn lost(&mut self, id: String, now: Instant) {
        self.absent.insert(id, now + RETURN);
    }

    /// Takes in what was given to the proxies.
    pub(super) fn given(&mut self, given: &Given, now: Instant) {
        if !self.state.is_synced() {
            let proxies = expected(&given.state);
            self.absent.extend(proxies.map(|id| (id.to_string(), now + RETURN)));
            self.strangers_until = Some(now + RETURN);
        }
        let state = &given.state;
        self.pods.retain(|id, wait| state.pods.get(id).is_some_and(|pod| pod.leaving && pod.uid == wait.uid));
        let new: BTreeSet<&PodId> = state.leaving.iter().filter(|id| !self.pods.contains_key(*id)).collect();
        for id in &new {
            let uid = state.pods.get(*id).map(|pod| pod.uid.clone()).unwrap_or_default();
            let wait = Wait { uid, since: now, sets: BTreeMap::new(), told: Told::Nothing };
            self.pods.insert((*id).clone(), wait);
        }
        self.find_recent(state, &new, now);
        if !new.is_empty() {
            self.find_sets(state, &new);
        }
        for (id, wait) in self.pods.iter_mut().filter(|(_, wait)| wait.told != Told::Out) {
            for (name, without) in &mut wait.sets {
                let version = given.endpoints.get(name).map(|set| set.version);
                if without.versions.last() != Some(&version) && !has(state, &without.service, id) {
                    without.versions.push(version);
                }
            }
        }
        self.state = given.state.clone();
    }

    fn find_sets(&mut self, state: &MeshState, new: &BTreeSet<&PodId>) {
        for (service, set) in state.endpoints.iter() {
            for pod in pods(&set.endpoints).filter(|pod| new.contains(pod)) {
                if let Some(wait) = self.pods.get_mut(pod) {
                    wait.add(service, sets(state, service));
                }
            }
        }
        for pod in new {
            let recent = self.recent.remove(*pod).into_iter().flatten();
            if let Some(wait) = self.pods.get_mut(*pod) {
                recent.for_each(|(service, recent)| wait.add(&service, recent.sets));
            }
        }
    }

    /// Takes note of the pods that are no longer behind a service.
    fn find_recent(&mut self, state: &MeshState, new: &BTreeSet<&PodId>, now: Instant) {
        self.recent.retain(|id, services| {
            services.retain(|_, recent| recent.until > now);
            !services.is_empty() && state.pods.contains_key(id)
        });
        for (service, before) in self.state.endpoints.iter() {
            let set = state.endpoints.get(service);
            if set.is_some_and(|set| Arc::ptr_eq(set, before)) {
                continue;
            }
            let after: BTreeSet<&PodId> = pods(state.endpoints_of(service)).collect();
            for pod in pods(&before.endpoints).filter(|pod| !after.contains(pod)) {
                // What left before has its sets, and what is gone needs none.
                if state.pods.get(pod).is_some_and(|known| !known.leaving || new.contains(pod)) {
                    let recent = Recent { sets: sets(&self.state, service), until: now + RECENT };
                    self.recent.entry(pod.clone()).or_default().insert(service.clone(), recent);
                }
            }
        }
    }

    /// What there is to tell now; each is told once.
    pub(super) fn look(&mut self, proxies: &impl Proxies, now: Instant) -> Vec<(PodId, String, Verdict)> {
        let state = &self.state;
        // Before the holders: who asks meanwhile is to be among them, or else still absent.
        self.absent.retain(|id, until| *until > now && returns(state, id) && !proxies.has_asked(id));
        let waiting = self.pods.values().filter(|wait| wait.told != Told::Out);
        let names: BTreeSet<&String> = waiting.flat_map(|wait| wait.sets.keys()).collect();
        let holders: BTreeMap<String, Holders> =
            names.into_iter().map(|name| (name.clone(), proxies.holders(name))).collect();
        for (name, before) in std::mem::take(&mut self.listed) {
            let Some(after) = holders.get(&name) else { continue };
            for id in gone(before, after).filter(|id| returns(state, id)) {
                self.absent.entry(id).or_insert(now + RETURN);
            }
        }
        let strangers = self.strangers_until.is_some_and(|until| until > now);
        let mut verdicts = Vec::new();
        for (id, wait) in self.pods.iter_mut().filter(|(_, wait)| wait.told != Told::Out) {
            let mut behind = BTreeSet::new();
            for (name, without) in &wait.sets {
                let holders = holders.get(name).into_iter().flatten();
                let late = holders.filter(|(_, version)| !without.versions.contains(version));
                behind.extend(late.map(|(proxy, _)| proxy.clone()));
                behind.extend(self.absent.keys().cloned());
                if strangers {
                    behind.insert(STRANGERS.to_owned());
                }
            }
            if behind.is_empty() {
                wait.told = Told::Out;
                verdicts.push((id.clone(), wait.uid.clone(), Verdict::Out));
            } else if wait.told == Told::Nothing && now >= wait.since + PATIENCE {
                wait.told = Told::Behind;
                let behind = behind.into_iter().collect();
                verdicts.push((id.clone(), wait.uid.clone(), Verdict::Behind(behind)));
            }
        }
        self.listed = holders;
        verdicts
    }

    /// Whether answers of proxies are of interest.
    pub(super) fn is_waiting(&self) -> bool {
        self.pods.values().any(|wait| wait.told != Told::Out)
    }

    /// When to look although nothing happens.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let waiting = || self.pods.values().filter(|wait| wait.told != Told::Out);
        let patience = waiting().filter(|wait| wait.told == Told::Nothing).map(|wait| wait.since + PATIENCE);
        let often = now + if self.absent.is_empty() { LOOK } else { LOOK_FOR_RETURN };
        let regular = waiting().next().map(|_| often);
        let returns = self.absent.values().copied().chain(self.strangers_until.filter(|until| *until > now));
        patience.chain(regular).chain(returns.filter(|_| regular.is_some())).min()
    }
}

// === impl Wait ===

impl Wait {
    fn add(&mut self, service: &ServiceId, sets: Vec<String>) {
        for name in sets {
            let without = Without { service: service.clone(), versions: Vec::new() };
            self.sets.entry(name).or_insert(without);
        }
    }
}

/// Those that are no longer among the holders.
fn gone(before: Holders, after: &Holders) -> impl Iterator<Item = String> {
    // As a rule nobody has gone.
    let same = before.len() == after.len() && before.iter().zip(after).all(|(one, other)| one.0 == other.0);
    let before = if same { Vec::new() } else { before };
    let after: BTreeSet<&String> =
        if same { BTreeSet::new() } else { after.iter().map(|(id, _)| id).collect() };
    before.into_iter().map(|(id, _)| id).filter(move |id| !after.contains(id))
}

fn pods(endpoints: &[Endpoint]) -> impl Iterator<Item = &PodId> {
    endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref())
}

/// The names of the endpoint sets of a service.
fn sets(state: &MeshState, service: &ServiceId) -> Vec<String> {
    let service = state.services.get(service);
    service.into_iter().flat_map(|service| carried(service)).map(|(name, _)| name).collect()
}

/// Whether the pod gets requests as an endpoint of the service.
fn has(state: &MeshState, service: &ServiceId, pod: &PodId) -> bool {
    let Some(known) = state.services.get(service) else { return false };
    let mut endpoints = state.endpoints_of(service).iter();
    endpoints.any(|endpoint| endpoint.pod.as_ref() == Some(pod) && gets_requests(endpoint, known))
}

/// The proxies that there should be: a sidecar for each pod, a gateway for each node of a pod.
fn expected(state: &MeshState) -> impl Iterator<Item = ProxyId> {
    let nodes: BTreeSet<&String> = state.pods.values().filter_map(|pod| pod.node.as_ref()).collect();
    let gateways = nodes.into_iter().map(|node| ProxyId::Gateway { node: node.clone() });
    let sidecars = state
        .pods
        .values()
        .filter(|pod| pod.has_sidecar && !pod.leaving)
        .map(|pod| ProxyId::Sidecar { namespace: pod.id.namespace.clone(), pod: pod.id.name.clone() });
    gateways.chain(sidecars)
}

/// Whether a proxy that is not connected is to be expected back.
fn returns(state: &MeshState, id: &str) -> bool {
    match id.parse() {
        Ok(ProxyId::Gateway { .. }) => true,
        Ok(ProxyId::Sidecar { namespace, pod }) => {
            let pod = state.pods.get(&PodId { namespace, name: pod });
            pod.is_some_and(|pod| pod.has_sidecar && !pod.leaving)
        }
        // A program that has gone.
        Ok(ProxyId::Grpc { .. }) | Err(_) => false,
    }
}
