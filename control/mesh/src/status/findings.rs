//! What is wrong with which service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use weft_discovery::model::{MeshState, Service, ServiceId};
use weft_xds::{ResourceType, server::ProxyBooks, session::server::SyncState};

use super::condition::Problem;
use crate::policy::{PolicyProblem, ServicePolicy};

/// Proxies that a message names for one refusal; of the others it tells the number.
const MAX_NAMED: usize = 3;

/// What is wrong with the services.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// As last looked at.
    services: BTreeMap<ServiceId, Arc<Service>>,
    annotations: BTreeMap<ServiceId, Vec<PolicyProblem>>,
    /// By proxy.
    refusals: BTreeMap<String, BTreeSet<Refusal>>,
}

/// A resource that was made from a service and that a proxy refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    service: ServiceId,
    type_: ResourceType,
    resource: String,
    reason: Arc<str>,
}

// === impl Findings ===

impl Findings {
    /// Looks at the services that changed; tells those about which something else is to be said now.
    pub(super) fn services(&mut self, state: &MeshState) -> BTreeSet<ServiceId> {
        let mut dirty = BTreeSet::new();
        self.services.retain(|id, _| state.services.contains_key(id));
        for (id, service) in state.services.iter() {
            if self.services.get(id).is_some_and(|known| Arc::ptr_eq(known, service)) {
                continue;
            }
            self.services.insert(id.clone(), service.clone());
            let (_, problems) = ServicePolicy::from_annotations(&service.annotations);
            let before = match problems.is_empty() {
                true => self.annotations.remove(id),
                false => self.annotations.insert(id.clone(), problems.clone()),
            };
            if before.unwrap_or_default() != problems {
                dirty.insert(id.clone());
            }
        }
        self.annotations.retain(|id, _| state.services.contains_key(id));
        dirty
    }

    /// Looks at a proxy; tells the services about which something else is to be said now, and what is new.
    pub(super) fn proxy(
        &mut self,
        books: &ProxyBooks,
        state: &MeshState,
    ) -> (BTreeSet<ServiceId>, Vec<(ServiceId, String)>) {
        let proxy = &books.node.id;
        let before = self.refusals.remove(proxy).unwrap_or_default();
        let mut now: BTreeSet<Refusal> = BTreeSet::new();
        for (type_, status) in &books.types {
            for (name, refused) in status.refused.iter().filter(|(_, refused)| refused.named) {
                if let Some(service) = service_of(name, state) {
                    let (type_, resource, reason) = (*type_, name.clone(), refused.reason.clone());
                    now.insert(Refusal { service, type_, resource, reason });
                }
            }
        }
        // Of a type that it has not settled since, it has not said that it takes what it refused.
        let settled = |type_: &ResourceType| {
            let state = books.types.get(type_).map(|status| status.state);
            matches!(state, Some(SyncState::Synced | SyncState::Refused))
        };
        let again =
            |old: &Refusal| now.iter().any(|new| (new.type_, &new.resource) == (old.type_, &old.resource));
        let kept: Vec<Refusal> =
            before.iter().filter(|old| !settled(&old.type_) && !again(old)).cloned().collect();
        now.extend(kept);
        let dirty = before.symmetric_difference(&now).map(|refusal| refusal.service.clone()).collect();
        let new = now.difference(&before).map(|new| {
            let note = format!("{}; the last good version stays", new.by(&[proxy.as_str()]));
            (new.service.clone(), note)
        });
        let new = new.collect();
        if !now.is_empty() {
            self.refusals.insert(proxy.clone(), now);
        }
        (dirty, new)
    }

    /// Whether something is held against a proxy.
    pub(super) fn has(&self, proxy: &str) -> bool {
        self.refusals.contains_key(proxy)
    }

    /// What a proxy refused does not count any more; tells the services that this was about.
    pub(super) fn forget(&mut self, proxy: &str) -> BTreeSet<ServiceId> {
        let gone = self.refusals.remove(proxy).unwrap_or_default();
        gone.into_iter().map(|refusal| refusal.service).collect()
    }

    /// What is wrong with a service.
    pub(super) fn problem(&self, id: &ServiceId) -> Option<Problem> {
        let mut parts: Vec<String> = Vec::new();
        for problem in self.annotations.get(id).into_iter().flatten() {
            parts.push(format!("{problem}; the default stays"));
        }
        let mut refused: BTreeMap<&Refusal, Vec<&str>> = BTreeMap::new();
        for (proxy, refusals) in &self.refusals {
            for refusal in refusals.iter().filter(|refusal| refusal.service == *id) {
                refused.entry(refusal).or_default().push(proxy);
            }
        }
        let reason = if refused.is_empty() { "InvalidAnnotation" } else { "RefusedByProxy" };
        for (refusal, proxies) in refused {
            parts.push(format!("{}; the last good version stays", refusal.by(&proxies)));
        }
        (!parts.is_empty()).then(|| Problem { reason, message: parts.join(". ") })
    }
}

// === impl Refusal ===

impl Refusal {
    fn by(&self, proxies: &[&str]) -> String {
        let Self { type_, resource, reason, .. } = self;
        let mut who = proxies[..proxies.len().min(MAX_NAMED)].join(", ");
        if proxies.len() > MAX_NAMED {
            who = format!("{who} and {} more proxies", proxies.len() - MAX_NAMED);
        }
        format!("{type_} {resource} is refused by {who}: {reason}")
    }
}

/// The service from which a resource was made: its name is `SERVICE.NAMESPACE:PORT`, that of a listener for captured
/// connections `ADDRESS:PORT`.
fn service_of(resource: &str, state: &MeshState) -> Option<ServiceId> {
    let (service, port) = resource.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    if let Ok(address) = service.parse::<IpAddr>() {
        let has_it = |service: &&Arc<Service>| service.virtual_addresses().contains(&address);
        return state.services.values().find(has_it).map(|service| service.id.clone());
    }
    let (name, namespace) = service.split_once('.')?;
    Some(ServiceId::new(namespace, name)).filter(|id| state.services.contains_key(id))
}
