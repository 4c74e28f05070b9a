//! Furnishes namespaces, and empties those that are being deleted.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, NamespaceCondition, NamespaceStatus, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    cache::Cache,
    error::{During as _, ReconcileError, code, is_already_exists, is_namespace_terminating, unless_gone},
    key::{Key, name},
    kinds,
};

mod remaining;

use remaining::Remaining;

/// What the namespace waits for before it goes.
const FINALIZER: &str = "kubernetes";
/// The name under which pods find the certificate of the cluster's authority.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// The account of pods that name none.
pub(crate) const DEFAULT_ACCOUNT: &str = "default";

/// How often a namespace that is not empty yet is looked at. The end of its last pod is heard of at once; this is for
/// what is held up by a finalizer of somebody else.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(crate) struct Namespaces {
    pub(crate) client: Client,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) accounts: Cache<ServiceAccount>,
    pub(crate) root_cas: Cache<ConfigMap>,
    /// Certificate of the cluster's authority, if pods are to have it.
    pub(crate) ca_pem: Option<Arc<str>>,
}

// === impl Namespaces ===

impl Namespaces {
    /// Furnishes the namespace, or takes the next step of its deletion.
    pub(crate) async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(namespace) = self.namespaces.get(&key) else { return Ok(None) };
        if namespace.metadata.deletion_timestamp.is_some() {
            return self.empty(&namespace).await;
        }
        self.furnish(&key.name).await?;
        Ok(None)
    }

    async fn furnish(&self, namespace: &str) -> Result<(), ReconcileError> {
        if self.accounts.get(&Key::new(namespace, DEFAULT_ACCOUNT)).is_none() {
            let account = ServiceAccount { metadata: meta(DEFAULT_ACCOUNT), ..Default::default() };
            let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
            unless_there(api.create(&PostParams::default(), &account).await)
                .during(|| "create the default service account".to_owned())?;
        }
        let Some(ca_pem) = &self.ca_pem else { return Ok(()) };
        let data = [("ca.crt".to_owned(), ca_pem.to_string())].into();
        let known = self.root_cas.get(&Key::new(namespace, ROOT_CA));
        if known.as_ref().is_some_and(|map| map.data.as_ref() == Some(&data)) {
            return Ok(());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let doing = || format!("write the config map {ROOT_CA}");
        if known.is_some() {
            let patch = Patch::Merge(json!({"data": data}));
            return api.patch(ROOT_CA, &PatchParams::default(), &patch).await.map(drop).during(doing);
        }
        let mut metadata = meta(ROOT_CA);
        let why = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
                   the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
                   Kubernetes clusters.";
        metadata.annotations = Some([("kubernetes.io/description".to_owned(), why.to_owned())].into());
        let map = ConfigMap { metadata, data: Some(data), ..Default::default() };
        unless_there(api.create(&PostParams::default(), &map).await).during(doing)
    }

    async fn empty(&self, namespace: &Namespace) -> Result<Option<Duration>, ReconcileError> {
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(None);
        }
        let remaining = self.delete_contents(name(&namespace.metadata)).await?;
        if remaining.is_empty() {
            self.finalize(namespace, finalizers).await?;
            return Ok(None);
        }
        self.write_conditions(namespace, &remaining).await?;
        Ok(Some(LOOK_AGAIN))
    }

    /// Deletes what there is, and tells what is left afterwards.
    async fn delete_contents(&self, namespace: &str) -> Result<Remaining, ReconcileError> {
        let mut remaining = Remaining::default();
        for resource in kinds::stored().filter(|resource| resource.namespaced) {
            let kind = resource.qualified_plural();
            let api = kinds::api(&self.client, resource, namespace);
            let doing = |verb: &str| format!("{verb} the {kind} of the namespace");
            let found = list(&api).await.during(|| doing("list"))?;
            // Objects that are on their way already need no second push.
            if found.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
                let deleted =
                    api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
                match deleted {
                    Ok(_) => {}
                    // A kind that cannot be deleted as a collection is deleted one by one.
                    Err(error) if code(&error) == Some(405) => {
                        for object in &found {
                            unless_gone(
                                api.delete(name(&object.metadata), &DeleteParams::background()).await,
                            )
                            .during(|| doing("delete"))?;
                        }
                    }
                    Err(error) => return Err(error).during(|| doing("delete")),
                }
            }
            if !found.is_empty() {
                for object in list(&api).await.during(|| doing("list"))? {
                    remaining.add(&kind, object.metadata.finalizers.as_deref().unwrap_or_default());
                }
            }
        }
        Ok(remaining)
    }

    async fn finalize(
        &self,
        namespace: &Namespace,
        mut finalizers: Vec<String>,
    ) -> Result<(), ReconcileError> {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        let mut finalized = namespace.clone();
        finalized.spec.get_or_insert_default().finalizers = Some(finalizers);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let written = api
            .replace_subresource("finalize", name(&namespace.metadata), &PostParams::default(), &finalized)
            .await;
        unless_gone(written).during(|| "finalize the namespace".to_owned())
    }

    async fn write_conditions(
        &self,
        namespace: &Namespace,
        remaining: &Remaining,
    ) -> Result<(), ReconcileError> {
        let old = namespace.status.clone().unwrap_or_default();
        let conditions =
            remaining.conditions(old.conditions.as_deref().unwrap_or_default(), Timestamp::now());
        if old.conditions.as_ref() == Some(&conditions) {
            return Ok(());
        }
        let mut updated = namespace.clone();
        updated.status = Some(NamespaceStatus { conditions: Some(conditions), ..old });
        let api: Api<Namespace> = Api::all(self.client.clone());
        let written = api.replace_status(name(&namespace.metadata), &PostParams::default(), &updated).await;
        unless_gone(written).during(|| "write the status".to_owned())
    }
}

async fn list(api: &Api<kinds::Meta>) -> kube::Result<Vec<kinds::Meta>> {
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        // Another server may not have all of our kinds; what it does not have cannot be in the way.
        Err(error) if matches!(code(&error), Some(404 | 405)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..Default::default() }
}

/// Success if the object exists already, or cannot because its namespace is going.
fn unless_there<T>(created: kube::Result<T>) -> kube::Result<()> {
    match created {
        Ok(_) => Ok(()),
        Err(error) if is_already_exists(&error) || is_namespace_terminating(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn condition(type_: &str, holds: bool, reason: &str, message: String, now: Timestamp) -> NamespaceCondition {
    NamespaceCondition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
    }
}
