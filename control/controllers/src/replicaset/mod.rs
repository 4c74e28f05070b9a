//! Keeps the number of pods that a ReplicaSet asks for.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
    core::Selector,
};

use crate::{
    batch::slow_start,
    cache::{Cache, Change},
    claim::claim,
    error::{During as _, ReconcileError, describe, is_namespace_terminating, is_not_found, unless_gone},
    events::Recorder,
    expectations::Expectations,
    key::{Key, controller_of, controller_reference, name, namespace, uid},
    pods,
    queue::WorkQueue,
};

mod rank;
mod status;

use status::Failure;

/// Most pods made or deleted in one go; the rest follows when the cache has caught up.
const BURST: usize = 500;

/// See the [module](self).
pub(crate) struct ReplicaSets {
    pub(crate) client: Client,
    pub(crate) sets: Cache<ReplicaSet>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) events: Recorder,
    pub(crate) expectations: Arc<Expectations>,
}

// === impl ReplicaSets ===

impl ReplicaSets {
    /// Brings the number of pods and the status up to date.
    pub(crate) async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(set) = self.sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let settled = self.expectations.settled(&key);
        let spec = set.spec.clone().unwrap_or_default();
        let selector = Selector::try_from(spec.selector).map_err(ReconcileError::Selector)?;
        let claimed = claim(&self.client, &*set, &selector, &self.pods).await?;
        let active: Vec<_> = claimed.into_iter().filter(|pod| pods::is_active(pod)).collect();

        let mut outcome = Ok(());
        let mut failure = None;
        if settled && set.metadata.deletion_timestamp.is_none() {
            let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
            if active.len() < wanted {
                outcome = self.create(&key, &set, (wanted - active.len()).min(BURST)).await;
                failure = outcome.as_ref().err().map(|error| failed("FailedCreate", error));
            } else if active.len() > wanted {
                let surplus = (active.len() - wanted).min(BURST);
                outcome = self
                    .delete(&key, &set, rank::to_delete(active.clone(), &self.group(&set), surplus))
                    .await;
                failure = outcome.as_ref().err().map(|error| failed("FailedDelete", error));
            }
        }
        let again = self.write_status(&set, &active, failure.as_ref()).await?;
        outcome.map(|()| again)
    }

    async fn create(&self, key: &Key, set: &ReplicaSet, count: usize) -> Result<(), ReconcileError> {
        let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        let pod = pods::from_template(&template, &key.namespace, &key.name, controller_reference(set));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        self.expectations.expect_additions(key, count);
        let (made, error) = slow_start(count, |_| async {
            let made = api.create(&PostParams::default(), &pod).await?;
            self.events.normal(set, "SuccessfulCreate", format!("Created pod: {}", name(&made.metadata)));
            Ok(())
        })
        .await;
        self.expectations.addition_settled(key, count - made);
        match error {
            None => Ok(()),
            Some(error) if is_namespace_terminating(&error) => Ok(()),
            Some(error) => {
                self.events.warning(set, "FailedCreate", format!("Error creating: {}", describe(&error)));
                Err(error).during(|| "create pods".to_owned())
            }
        }
    }

    async fn delete(
        &self,
        key: &Key,
        set: &ReplicaSet,
        surplus: Vec<Arc<Pod>>,
    ) -> Result<(), ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        self.expectations.expect_deletions(key, surplus.iter().map(|pod| uid(&pod.metadata)));
        let results = join_all(surplus.iter().map(|pod| async {
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams::background().preconditions(preconditions);
            let result = api.delete(name(&pod.metadata), &params).await;
            match &result {
                Ok(_) => {
                    let message = format!("Deleted pod: {}", name(&pod.metadata));
                    self.events.normal(set, "SuccessfulDelete", message);
                }
                Err(error) => {
                    self.expectations.deletion_settled(key, uid(&pod.metadata));
                    if !is_not_found(error) {
                        self.events.warning(
                            set,
                            "FailedDelete",
                            format!("Error deleting: {}", describe(error)),
                        );
                    }
                }
            }
            unless_gone(result)
        }))
        .await;
        results.into_iter().collect::<Result<(), _>>().during(|| "delete pods".to_owned())
    }

    /// The pods of all ReplicaSets that belong to the same Deployment.
    fn group(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let in_namespace = namespace(&set.metadata);
        let sets = match controller_of(&set.metadata) {
            Some(owner) => self.sets.managed_by(in_namespace, &owner.uid),
            None => vec![Arc::new(set.clone())],
        };
        sets.iter().flat_map(|set| self.pods.managed_by(in_namespace, uid(&set.metadata))).collect()
    }

    async fn write_status(
        &self,
        set: &ReplicaSet,
        active: &[Arc<Pod>],
        failure: Option<&Failure>,
    ) -> Result<Option<Duration>, ReconcileError> {
        let (status, again) = status::status(set, active, failure, Timestamp::now());
        if set.status.as_ref() != Some(&status) {
            let mut updated = set.clone();
            updated.status = Some(status);
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), namespace(&set.metadata));
            let written = api.replace_status(name(&set.metadata), &PostParams::default(), &updated).await;
            unless_gone(written).during(|| "write the status".to_owned())?;
        }
        Ok(again)
    }
}

/// Adds the ReplicaSets that a change of a pod concerns, and counts it off against what they expect.
pub(crate) fn on_pod(
    change: &Change<'_, Pod>,
    sets: &Cache<ReplicaSet>,
    expectations: &Expectations,
    queue: &WorkQueue<Key>,
) {
    let manager = |pod: &Pod| {
        let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
        Some(Key::new(namespace(&pod.metadata), &owner.name))
    };
    for pod in change.versions() {
        if let Some(key) = manager(pod) {
            if matches!(change, Change::Added(_)) {
                expectations.addition_settled(&key, 1);
            }
            if matches!(change, Change::Deleted(_)) || pods::is_terminating(pod) {
                expectations.deletion_settled(&key, uid(&pod.metadata));
            }
            queue.add(key);
        }
    }
    let pod = change.latest();
    if controller_of(&pod.metadata).is_none() && !matches!(change, Change::Deleted(_)) {
        let selected = sets.in_namespace(namespace(&pod.metadata)).into_iter().filter(|set| {
            let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
            crate::selectors::matches(selector, pod.metadata.labels.as_ref())
        });
        selected.for_each(|set| queue.add(Key::of(&set.metadata)));
    }
}

fn failed(reason: &'static str, error: &ReconcileError) -> Failure {
    let message = match error {
        ReconcileError::Api { source, .. } => describe(source),
        other => other.to_string(),
    };
    Failure { reason, message }
}
