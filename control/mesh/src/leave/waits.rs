//! Which pods are to go, and for whom each waits. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::time::Instant;
use weft_api::mesh::ProxyId;
use weft_discovery::model::{MeshState, PodId, ServiceId};
use weft_xds::session::Version;

use super::{PATIENCE, RETURN};
use crate::{catalog::carried, publisher::Given, resources::endpoints::gets_requests};

/// What is known of the proxies.
pub(super) trait Proxies {
    /// The connected proxies that asked for an endpoint set, each with the version that it is known to have.
    fn holders(&self, set: &str) -> Vec<(String, Option<Version>)>;

    /// Whether the proxy is connected.
    fn is_connected(&self, id: &str) -> bool;
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
    /// Proxies that are not connected, and until when they may come back with what they knew.
    absent: BTreeMap<String, Instant>,
}

#[derive(Debug)]
struct Wait {
    uid: String,
    since: Instant,
    /// By the names of the endpoint sets that had it.
    sets: BTreeMap<String, Without>,
    told: Told,
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
        }
        let state = &given.state;
        self.pods.retain(|id, wait| state.pods.get(id).is_some_and(|pod| pod.leaving && pod.uid == wait.uid));
        let new: BTreeSet<&PodId> = state.leaving.iter().filter(|id| !self.pods.contains_key(*id)).collect();
        for id in &new {
            let uid = state.pods.get(*id).map(|pod| pod.uid.clone()).unwrap_or_default();
            let wait = Wait { uid, since: now, sets: BTreeMap::new(), told: Told::Nothing };
            self.pods.insert((*id).clone(), wait);
        }
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
            let pods = set.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
            for pod in pods.filter(|pod| new.contains(pod)) {
                let ports = state.services.get(service).into_iter().flat_map(|service| carried(service));
                for (name, _) in ports {
                    if let Some(wait) = self.pods.get_mut(pod) {
                        let without = Without { service: service.clone(), versions: Vec::new() };
                        wait.sets.entry(name).or_insert(without);
                    }
                }
            }
        }
    }

    /// What there is to tell now; each is told once.
    pub(super) fn look(&mut self, proxies: &impl Proxies, now: Instant) -> Vec<(PodId, String, Verdict)> {
        let state = &self.state;
        self.absent.retain(|id, until| *until > now && returns(state, id) && !proxies.is_connected(id));
        let mut holders: HashMap<&str, Vec<(String, Option<Version>)>> = HashMap::new();
        let mut verdicts = Vec::new();
        for (id, wait) in self.pods.iter_mut().filter(|(_, wait)| wait.told != Told::Out) {
            let mut behind = BTreeSet::new();
            for (name, without) in &wait.sets {
                let holders = holders.entry(name).or_insert_with(|| proxies.holders(name));
                let late = holders.iter().filter(|(_, version)| !without.versions.contains(version));
                behind.extend(late.map(|(proxy, _)| proxy.clone()));
                behind.extend(self.absent.keys().cloned());
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
        verdicts
    }

    /// Whether answers of proxies are of interest.
    pub(super) fn is_waiting(&self) -> bool {
        self.pods.values().any(|wait| wait.told != Told::Out)
    }

    /// When to look although nothing happens.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let waiting = || self.pods.values().filter(|wait| wait.told != Told::Out);
        let patience = waiting().filter(|wait| wait.told == Told::Nothing).map(|wait| wait.since + PATIENCE);
        let returns = waiting().next().and(self.absent.values().min().copied());
        patience.chain(returns).min()
    }
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
