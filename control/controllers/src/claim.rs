//! Which objects belong to an owner: those that it manages and selects.
//!
//! Objects that match the selector and have no manager are adopted; managed ones that do not match any more (their labels
//! were edited, usually to look at a misbehaving pod in peace) are released.

use std::{fmt, sync::Arc};

use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::{Selector, SelectorExt as _},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    cache::Cache,
    error::{During as _, ReconcileError, is_not_found, unless_gone},
    key::{controller_reference, name, namespace, uid},
};

/// The objects of the cache that belong to `owner`, after adopting and releasing what needs it.
///
/// An adopted object is not in the result: the cache will have it with its new manager in a moment, and that adds the
/// owner's key again.
pub(crate) async fn claim<O, C>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    cache: &Cache<C>,
) -> Result<Vec<Arc<C>>, ReconcileError>
where
    O: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + fmt::Debug,
    C: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + fmt::Debug,
{
    let in_namespace = namespace(owner.meta());
    let api: Api<C> = Api::namespaced(client.clone(), in_namespace);
    let leaving = owner.meta().deletion_timestamp.is_some();
    let selects = |object: &C| selector.matches(object.meta().labels.as_ref().unwrap_or(&Default::default()));

    let mut claimed = Vec::new();
    for object in cache.managed_by(in_namespace, uid(owner.meta())) {
        if selects(&object) {
            claimed.push(object);
        } else if !leaving {
            release(&api, owner, &*object).await?;
        }
    }
    // An empty selector would adopt everything in the namespace.
    let orphans = if leaving || selector.selects_all() { Vec::new() } else { cache.unmanaged(in_namespace) };
    let orphans: Vec<_> = orphans
        .into_iter()
        .filter(|object| object.meta().deletion_timestamp.is_none() && selects(object))
        .collect();
    if orphans.is_empty() {
        return Ok(claimed);
    }
    // The cache may not know yet that the owner is being deleted, or replaced by another of the same name.
    let owners: Api<O> = Api::namespaced(client.clone(), in_namespace);
    let live =
        owners.get_opt(name(owner.meta())).await.during(|| "read the owner before adoption".to_owned())?;
    let unchanged = live.is_some_and(|live| {
        uid(live.meta()) == uid(owner.meta()) && live.meta().deletion_timestamp.is_none()
    });
    if !unchanged {
        return Err(ReconcileError::Stale("the owner was deleted meanwhile".to_owned()));
    }
    for object in orphans {
        adopt(&api, owner, &*object).await?;
    }
    Ok(claimed)
}

async fn adopt<O, C>(api: &Api<C>, owner: &O, object: &C) -> Result<(), ReconcileError>
where
    O: Resource<DynamicType = ()>,
    C: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug,
{
    let reference = controller_reference(owner);
    let patch = json!({"metadata": {"ownerReferences": [reference], "uid": uid(object.meta())}});
    let patched = api.patch(name(object.meta()), &PatchParams::default(), &Patch::Strategic(patch)).await;
    unless_gone(patched).during(|| format!("adopt {} {}", C::kind(&()), name(object.meta())))
}

async fn release<O, C>(api: &Api<C>, owner: &O, object: &C) -> Result<(), ReconcileError>
where
    O: Resource<DynamicType = ()>,
    C: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug,
{
    let reference = json!({"$patch": "delete", "uid": uid(owner.meta())});
    let patch = json!({"metadata": {"ownerReferences": [reference], "uid": uid(object.meta())}});
    match api.patch(name(object.meta()), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Err(error) if !is_not_found(&error) => {
            Err(error).during(|| format!("release {} {}", C::kind(&()), name(object.meta())))
        }
        _ => Ok(()),
    }
}
