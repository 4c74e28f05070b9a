//! Who owns whom.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use weft_api::registry::{self, Resource};

use crate::key::{Key, uid};

/// The dependents are to go before the object does.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The dependents are to stay.
pub(super) const ORPHAN: &str = "orphan";

/// Kind and name of an object.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) resource: &'static Resource,
    pub(super) key: Key,
}

/// What the graph knows of an object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) identity: Identity,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) finalizers: Vec<String>,
}

/// All objects by UID. `objects` is canonical; `dependents` holds the reverse of their owner references.
#[derive(Debug, Default)]
pub(super) struct Graph {
    objects: HashMap<String, Object>,
    /// UIDs of dependents by UID of the owner, also of owners that are not known.
    dependents: HashMap<String, HashSet<String>>,
    /// UIDs that were seen to go. No owner comes back under its old UID, so these need no further asking.
    gone: Gone,
}

/// The most recent UIDs that are known to exist no more.
#[derive(Debug, Default)]
struct Gone {
    current: HashSet<String>,
    previous: HashSet<String>,
}

const REMEMBERED: usize = 5000;

// === impl Graph ===

impl Graph {
    /// Takes over an object; returns the UIDs that need work because of it.
    pub(super) fn set(&mut self, resource: &'static Resource, meta: &ObjectMeta) -> Vec<String> {
        let own = uid(meta).to_owned();
        let object = Object {
            identity: Identity { resource, key: Key::of(meta) },
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        };
        let before = self.unlink(&own);
        for owner in &object.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(own.clone());
        }
        let mut work = Vec::new();
        let had_owners = before.as_ref().is_some_and(|before| before.owners == object.owners);
        if !object.owners.is_empty() && !had_owners || object.waits_for_dependents() || object.orphans() {
            work.push(own.clone());
        }
        if object.waits_for_dependents() && !before.as_ref().is_some_and(Object::waits_for_dependents) {
            work.extend(self.dependents_of(&own));
        }
        // An owner may have waited for this one: it released its hold or changed its owners.
        work.extend(self.waiting_owners(before.iter().chain([&object])));
        self.objects.insert(own, object);
        work
    }

    /// Forgets an object; returns the UIDs that need work because of it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.gone.insert(uid.to_owned());
        let Some(object) = self.unlink(uid) else { return Vec::new() };
        self.objects.remove(uid);
        let mut work = self.dependents_of(uid);
        work.extend(self.waiting_owners([&object]));
        work
    }

    /// The object of this UID.
    pub(super) fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// Whether an object of this UID was seen to go, or found to be missing.
    pub(super) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    /// Notes that no object has this UID.
    pub(super) fn set_gone(&mut self, uid: &str) {
        self.gone.insert(uid.to_owned());
    }

    /// UIDs of the objects that name this one as an owner.
    pub(super) fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// UIDs of the dependents that hold up the deletion of this one.
    pub(super) fn blocking(&self, uid: &str) -> Vec<String> {
        let blocks = |dependent: &String| {
            self.objects.get(dependent).is_some_and(|object| {
                object.owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
            })
        };
        self.dependents_of(uid).into_iter().filter(blocks).collect()
    }

    fn unlink(&mut self, uid: &str) -> Option<Object> {
        let object = self.objects.get(uid).cloned()?;
        for owner in &object.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        Some(object)
    }

    fn waiting_owners<'a>(&self, objects: impl IntoIterator<Item = &'a Object>) -> Vec<String> {
        let owners = objects.into_iter().flat_map(|object| &object.owners).map(|owner| &owner.uid);
        owners
            .filter(|uid| self.objects.get(*uid).is_some_and(Object::waits_for_dependents))
            .cloned()
            .collect()
    }
}

// === impl Object ===

impl Object {
    /// Whether the object is being deleted and wants its dependents to go first.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has_finalizer(FOREGROUND)
    }

    /// Whether the object is being deleted and leaves its dependents behind.
    pub(super) fn orphans(&self) -> bool {
        self.deleting && self.has_finalizer(ORPHAN)
    }

    pub(super) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|own| own == finalizer)
    }
}

// === impl Gone ===

impl Gone {
    fn insert(&mut self, uid: String) {
        if self.current.len() >= REMEMBERED {
            self.previous = std::mem::take(&mut self.current);
        }
        self.current.insert(uid);
    }

    fn contains(&self, uid: &str) -> bool {
        self.current.contains(uid) || self.previous.contains(uid)
    }
}

/// The kind that an owner reference names; `None` if the API server does not have it.
pub(super) fn resource_of(owner: &OwnerReference) -> Option<&'static Resource> {
    let (group, version) = registry::split_api_version(&owner.api_version);
    registry::by_kind(group, version, &owner.kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{managed_by, meta};

    fn pods() -> &'static Resource {
        registry::by_kind("", "v1", "Pod").expect("pods exist")
    }

    fn owned(name: &str, owner: &str) -> ObjectMeta {
        let reference = OwnerReference { block_owner_deletion: Some(true), ..managed_by(owner) };
        ObjectMeta { owner_references: Some(vec![reference]), ..meta(name) }
    }

    fn deleting(name: &str, finalizer: &str) -> ObjectMeta {
        let mut meta = meta(name);
        meta.deletion_timestamp = meta.creation_timestamp.clone();
        meta.finalizers = Some(vec![finalizer.to_owned()]);
        meta
    }

    #[test]
    fn the_end_of_an_owner_concerns_its_dependents() {
        let mut graph = Graph::default();
        assert!(graph.set(pods(), &meta("owner")).is_empty());
        assert_eq!(graph.set(pods(), &owned("child", "uid-owner")), ["uid-child"]);
        assert!(graph.set(pods(), &owned("child", "uid-owner")).is_empty(), "known already");
        assert_eq!(graph.remove("uid-owner"), ["uid-child"]);
        assert!(graph.is_gone("uid-owner"));
    }

    #[test]
    fn dependents_may_be_known_before_their_owner() {
        let mut graph = Graph::default();
        graph.set(pods(), &owned("child", "uid-owner"));
        graph.set(pods(), &meta("owner"));
        assert_eq!(graph.dependents_of("uid-owner"), ["uid-child"]);
    }

    #[test]
    fn an_owner_that_waits_hears_of_the_end_of_each_dependent() {
        let mut graph = Graph::default();
        graph.set(pods(), &meta("owner"));
        graph.set(pods(), &owned("child", "uid-owner"));
        let work = graph.set(pods(), &deleting("owner", FOREGROUND));
        assert_eq!(work, ["uid-owner", "uid-child"]);
        assert_eq!(graph.blocking("uid-owner"), ["uid-child"]);
        assert_eq!(graph.remove("uid-child"), ["uid-owner"]);
        assert!(graph.blocking("uid-owner").is_empty());
    }
}
