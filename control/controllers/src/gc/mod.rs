//! Deletes what belongs to nobody any more.
//!
//! An object whose owners are all gone goes too (*background*); an object deleted in the *foreground* goes when those of
//! its dependents that block it are gone; one deleted with *orphan* leaves its dependents, with one reference less.
//!
//! # Guarantees
//! * Nothing is deleted on what a cache says: the object, and any owner that was not seen to go, are read from the API server
//!   first, and the deletion carries the UID and version that were read.
//! * An owner of a kind that the API server does not know counts as present.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use parking_lot::Mutex;
use serde_json::json;
use weft_api::registry::Resource;

use crate::{
    error::{During as _, ReconcileError, unless_gone},
    key::{name, namespace, uid},
    kinds,
    queue::WorkQueue,
};

mod graph;

use graph::{FOREGROUND, Graph, Identity, ORPHAN, resource_of};

/// See the [module](self).
pub(crate) struct GarbageCollector {
    client: Client,
    graph: Mutex<Graph>,
    queue: WorkQueue<String>,
}

/// The owners of an object, told apart.
#[derive(Debug, Default)]
struct Owners {
    /// Exist, and stay.
    solid: Vec<String>,
    /// Are gone.
    dangling: Vec<String>,
    /// Exist, and wait for their dependents before they go.
    waiting: Vec<String>,
}

// === impl GarbageCollector ===

impl GarbageCollector {
    pub(crate) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, graph: Mutex::new(Graph::default()), queue: WorkQueue::new() })
    }

    /// UIDs that need work.
    pub(crate) fn queue(&self) -> WorkQueue<String> {
        self.queue.clone()
    }

    /// Hears of an object that exists.
    pub(crate) fn seen(&self, resource: &'static Resource, meta: &ObjectMeta) {
        let work = self.graph.lock().set(resource, meta);
        work.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// Hears of an object that is gone.
    pub(crate) fn gone(&self, meta: &ObjectMeta) {
        let work = self.graph.lock().remove(uid(meta));
        work.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// Does what is due for the object with this UID.
    pub(crate) async fn reconcile(&self, own: String) -> Result<Option<Duration>, ReconcileError> {
        let Some(object) = self.graph.lock().get(&own).cloned() else { return Ok(None) };
        if object.orphans() {
            return self.orphan_dependents(&own, &object.identity).await.map(|()| None);
        }
        if object.waits_for_dependents() {
            return self.release_if_alone(&own, &object.identity).await.map(|()| None);
        }
        if object.deleting || object.owners.is_empty() {
            return Ok(None);
        }
        let Some(live) = self.read(&object.identity, &own).await? else { return Ok(None) };
        if live.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let owners = self.classify(&live).await?;
        if !owners.solid.is_empty() {
            let superfluous: Vec<_> = owners.dangling.into_iter().chain(owners.waiting).collect();
            if !superfluous.is_empty() {
                self.drop_owners(&object.identity, &live, &superfluous).await?;
            }
        } else if !owners.waiting.is_empty() && !self.graph.lock().dependents_of(&own).is_empty() {
            // The owner waits for everything below it, so this one must wait for what is below itself.
            self.delete(&object.identity, &live, PropagationPolicy::Foreground).await?;
        } else if !owners.waiting.is_empty() || !owners.dangling.is_empty() {
            let finalizers = live.finalizers.as_deref().unwrap_or_default();
            let has = |finalizer: &str| finalizers.iter().any(|own| own == finalizer);
            let policy = match (has(ORPHAN), has(FOREGROUND)) {
                (true, _) => PropagationPolicy::Orphan,
                (false, true) => PropagationPolicy::Foreground,
                (false, false) => PropagationPolicy::Background,
            };
            self.delete(&object.identity, &live, policy).await?;
        }
        Ok(None)
    }

    /// Takes the owner reference from every dependent, then lets the owner go.
    async fn orphan_dependents(&self, own: &str, identity: &Identity) -> Result<(), ReconcileError> {
        let dependents = {
            let graph = self.graph.lock();
            let identity = |uid: String| graph.get(&uid).map(|object| (uid, object.identity.clone()));
            graph.dependents_of(own).into_iter().filter_map(identity).collect::<Vec<_>>()
        };
        for (dependent, identity) in dependents {
            if let Some(live) = self.read(&identity, &dependent).await? {
                self.drop_owners(&identity, &live, &[own.to_owned()]).await?;
            }
        }
        self.drop_finalizer(own, identity, ORPHAN).await
    }

    /// Lets an owner go when no dependent blocks it; else sees to it that those that block go.
    async fn release_if_alone(&self, own: &str, identity: &Identity) -> Result<(), ReconcileError> {
        let blocking = self.graph.lock().blocking(own);
        if blocking.is_empty() {
            return self.drop_finalizer(own, identity, FOREGROUND).await;
        }
        blocking.into_iter().for_each(|dependent| self.queue.add(dependent));
        Ok(())
    }

    async fn classify(&self, live: &ObjectMeta) -> Result<Owners, ReconcileError> {
        let mut owners = Owners::default();
        for owner in live.owner_references.iter().flatten() {
            let (known, gone) = {
                let graph = self.graph.lock();
                (graph.get(&owner.uid).map(graph::Object::waits_for_dependents), graph.is_gone(&owner.uid))
            };
            let waits = match known {
                Some(waits) => Some(waits),
                None if gone => None,
                None => self.ask_for(owner, namespace(live)).await?,
            };
            match waits {
                Some(false) => owners.solid.push(owner.uid.clone()),
                Some(true) => owners.waiting.push(owner.uid.clone()),
                None => owners.dangling.push(owner.uid.clone()),
            }
        }
        Ok(owners)
    }

    /// Reads an owner that the graph does not have: whether it waits for its dependents, or `None` if it is gone.
    async fn ask_for(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<bool>, ReconcileError> {
        let Some(resource) = resource_of(owner) else {
            tracing::debug!(
                kind = owner.kind,
                api_version = owner.api_version,
                "owner of unknown kind taken as present"
            );
            return Ok(Some(false));
        };
        let api = kinds::api(&self.client, resource, namespace);
        let found = api
            .get_opt(&owner.name)
            .await
            .during(|| format!("read the owner {} {}", owner.kind, owner.name))?;
        match found.filter(|found| uid(&found.metadata) == owner.uid) {
            Some(found) => {
                let waits =
                    found.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND);
                Ok(Some(waits && found.metadata.deletion_timestamp.is_some()))
            }
            None => {
                self.graph.lock().set_gone(&owner.uid);
                Ok(None)
            }
        }
    }

    /// The object's metadata as the API server has it now, if it is still the same object.
    async fn read(&self, identity: &Identity, own: &str) -> Result<Option<ObjectMeta>, ReconcileError> {
        let api = kinds::api(&self.client, identity.resource, &identity.key.namespace);
        let found = api.get_opt(&identity.key.name).await.during(|| describe("read", identity))?;
        Ok(found.map(|found| found.metadata).filter(|meta| uid(meta) == own))
    }

    async fn delete(
        &self,
        identity: &Identity,
        live: &ObjectMeta,
        policy: PropagationPolicy,
    ) -> Result<(), ReconcileError> {
        let preconditions =
            Preconditions { uid: live.uid.clone(), resource_version: live.resource_version.clone() };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        tracing::debug!(kind = identity.resource.kind, object = %identity.key, "deleting, its owners are gone");
        let api = kinds::api(&self.client, identity.resource, &identity.key.namespace);
        unless_gone(api.delete(name(live), &params).await).during(|| describe("delete", identity))
    }

    async fn drop_owners(
        &self,
        identity: &Identity,
        live: &ObjectMeta,
        owners: &[String],
    ) -> Result<(), ReconcileError> {
        let kept: Vec<_> =
            live.owner_references.iter().flatten().filter(|owner| !owners.contains(&owner.uid)).collect();
        let patch = json!({"metadata": {
            "ownerReferences": if kept.is_empty() { json!(null) } else { json!(kept) },
            "resourceVersion": live.resource_version,
        }});
        let api = kinds::api(&self.client, identity.resource, &identity.key.namespace);
        let patched = api.patch(name(live), &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(patched).during(|| describe("drop owners of", identity))
    }

    async fn drop_finalizer(
        &self,
        own: &str,
        identity: &Identity,
        finalizer: &str,
    ) -> Result<(), ReconcileError> {
        let Some(live) = self.read(identity, own).await? else { return Ok(()) };
        let kept: Vec<_> = live.finalizers.iter().flatten().filter(|own| *own != finalizer).collect();
        if kept.len() == live.finalizers.as_ref().map_or(0, Vec::len) {
            return Ok(());
        }
        let patch = json!({"metadata": {
            "finalizers": if kept.is_empty() { json!(null) } else { json!(kept) },
            "resourceVersion": live.resource_version,
        }});
        let api = kinds::api(&self.client, identity.resource, &identity.key.namespace);
        let patched = api.patch(name(&live), &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(patched).during(|| describe("finalize", identity))
    }
}

fn describe(verb: &str, identity: &Identity) -> String {
    format!("{verb} {} {}", identity.resource.kind, identity.key)
}
