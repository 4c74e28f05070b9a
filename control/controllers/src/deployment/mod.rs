//! Moves the pods of a Deployment from one revision to the next, through ReplicaSets.
//!
//! [`plan`](plan::plan) decides; this module reads what it decides on and does what it says.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
        core::v1::Pod,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::Selector,
};
use serde_json::json;

use crate::{
    cache::{Cache, Change},
    claim::claim,
    error::{
        During as _, ReconcileError, describe, is_already_exists, is_namespace_terminating, unless_gone,
    },
    events::Recorder,
    key::{Key, controller_of, name, namespace, uid},
    pods,
    queue::WorkQueue,
    selectors,
};

mod numbers;
mod plan;
mod revision;
mod scale;
mod status;

use plan::Action;
use status::Finding;

/// See the [module](self).
pub(crate) struct Deployments {
    pub(crate) client: Client,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) sets: Cache<ReplicaSet>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) events: Recorder,
}

// === impl Deployments ===

impl Deployments {
    /// Takes the next step of a rollout, and brings the status up to date.
    pub(crate) async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(None) };
        let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let selector = Selector::try_from(selector).map_err(ReconcileError::Selector)?;
        if selector.selects_all() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.warning(&*deployment, "SelectingAll", message.to_owned());
            return Ok(None);
        }
        let sets = claim(&self.client, &*deployment, &selector, &self.sets).await?;
        let old_pods_running = !numbers::is_rolling(&deployment) && self.old_pods_running(&deployment, &sets);
        let plan = plan::plan(&deployment, sets, old_pods_running, Timestamp::now());
        // Each write that changes the Deployment itself gives the version for the next.
        let mut current = Deployment::clone(&deployment);
        for action in plan.actions {
            self.act(&mut current, action).await?;
        }
        if current.status.as_ref() != Some(&plan.status) {
            self.write_status(current, plan.status).await?;
        }
        Ok(plan.again)
    }

    async fn act(&self, deployment: &mut Deployment, action: Action) -> Result<(), ReconcileError> {
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace(&deployment.metadata));
        match action {
            Action::Create(set) => self.create(&api, deployment, &set).await,
            Action::Resize { from, to, set } => {
                let result = api.replace(name(&set.metadata), &PostParams::default(), &set).await;
                result.during(|| format!("resize {}", name(&set.metadata)))?;
                self.tell_resized(deployment, &set, from, to);
                Ok(())
            }
            Action::Update(set) => {
                let result = api.replace(name(&set.metadata), &PostParams::default(), &set).await;
                result.map(drop).during(|| format!("update {}", name(&set.metadata)))
            }
            Action::Delete(set) => {
                let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams::background().preconditions(preconditions);
                let result = api.delete(name(&set.metadata), &params).await;
                unless_gone(result).during(|| format!("delete {}", name(&set.metadata)))
            }
            Action::SetRevision(revision) => {
                let api: Api<Deployment> =
                    Api::namespaced(self.client.clone(), namespace(&deployment.metadata));
                let patch = json!({"metadata": {
                    "annotations": {revision::REVISION: revision},
                    "resourceVersion": deployment.metadata.resource_version,
                }});
                let patched = api
                    .patch(name(&deployment.metadata), &PatchParams::default(), &Patch::Merge(patch))
                    .await;
                *deployment = patched.during(|| "note the revision".to_owned())?;
                Ok(())
            }
        }
    }

    async fn create(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        set: &ReplicaSet,
    ) -> Result<(), ReconcileError> {
        let set_name = name(&set.metadata);
        let error = match api.create(&PostParams::default(), set).await {
            Ok(_) => {
                self.tell_resized(deployment, set, 0, numbers::size(set));
                return Ok(());
            }
            Err(error) => error,
        };
        let failed = |error| Err(error).during(|| format!("create {set_name}"));
        if is_namespace_terminating(&error) {
            return failed(error);
        }
        if !is_already_exists(&error) {
            let message = format!("Failed to create new replica set \"{set_name}\": {}", describe(&error));
            self.events.warning(deployment, "ReplicaSetCreateError", message.clone());
            if status::deadline(deployment).is_some() {
                let mut status = deployment.status.clone().unwrap_or_default();
                let reason = "ReplicaSetCreateError";
                let finding = Finding { type_: status::PROGRESSING, status: "False", reason, message };
                status::set(&mut status, finding, Timestamp::now());
                self.write_status(deployment.clone(), status).await?;
            }
            return failed(error);
        }
        let existing = api.get_opt(set_name).await.during(|| format!("read {set_name}"))?;
        match existing {
            // Our own, made a moment ago: the cache does not have it yet.
            Some(existing) if revision::is_ours(&existing, deployment) => Ok(()),
            Some(_) => {
                let mut status = deployment.status.clone().unwrap_or_default();
                let collisions = status.collision_count.unwrap_or(0) + 1;
                status.collision_count = Some(collisions);
                self.write_status(deployment.clone(), status).await?;
                Err(ReconcileError::Stale(format!("the name {set_name} is taken, the next try has another")))
            }
            None => failed(error),
        }
    }

    async fn write_status(
        &self,
        mut deployment: Deployment,
        status: DeploymentStatus,
    ) -> Result<(), ReconcileError> {
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        deployment.status = Some(status);
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace(&deployment.metadata));
        let written =
            api.replace_status(name(&deployment.metadata), &PostParams::default(), &deployment).await;
        unless_gone(written).during(|| "write the status".to_owned())
    }

    fn tell_resized(&self, deployment: &Deployment, set: &ReplicaSet, from: i32, to: i32) {
        let verb = match from.cmp(&to) {
            std::cmp::Ordering::Less => "up",
            std::cmp::Ordering::Greater => "down",
            std::cmp::Ordering::Equal => return,
        };
        let message = format!("Scaled {verb} replica set {} from {from} to {to}", name(&set.metadata));
        self.events.normal(deployment, "ScalingReplicaSet", message);
    }

    fn old_pods_running(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        let old = revision::Sets::new(deployment, sets.to_vec()).old;
        let mut pods =
            old.iter().flat_map(|set| self.pods.managed_by(namespace(&set.metadata), uid(&set.metadata)));
        pods.any(|pod| !pods::is_terminal(&pod))
    }
}

/// Adds the Deployments that a change of a ReplicaSet concerns.
pub(crate) fn on_set(
    change: &Change<'_, ReplicaSet>,
    deployments: &Cache<Deployment>,
    queue: &WorkQueue<Key>,
) {
    for set in change.versions() {
        if let Some(owner) = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
            queue.add(Key::new(namespace(&set.metadata), &owner.name));
        }
    }
    let set = change.latest();
    if controller_of(&set.metadata).is_none() && !matches!(change, Change::Deleted(_)) {
        for deployment in deployments.in_namespace(namespace(&set.metadata)) {
            let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
            if selectors::matches(selector, set.metadata.labels.as_ref()) {
                queue.add(Key::of(&deployment.metadata));
            }
        }
    }
}

/// Adds the Deployment that waits for a pod to end before it starts new ones.
pub(crate) fn on_pod(
    change: &Change<'_, Pod>,
    deployments: &Cache<Deployment>,
    sets: &Cache<ReplicaSet>,
    queue: &WorkQueue<Key>,
) {
    let pod = change.latest();
    if !matches!(change, Change::Deleted(_)) && !pods::is_terminal(pod) {
        return;
    }
    let set = controller_of(&pod.metadata).map(|owner| Key::new(namespace(&pod.metadata), &owner.name));
    let Some(set) = set.and_then(|key| sets.get(&key)) else { return };
    let Some(owner) = controller_of(&set.metadata) else { return };
    let key = Key::new(namespace(&set.metadata), &owner.name);
    if deployments.get(&key).is_some_and(|deployment| !numbers::is_rolling(&deployment)) {
        queue.add(key);
    }
}
