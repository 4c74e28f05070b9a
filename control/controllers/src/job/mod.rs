//! Runs pods until enough of them have succeeded.
//!
//! [`plan`](plan::plan) decides, [`track`] counts; this module reads what they need and does what they say.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use serde_json::json;

use crate::{
    batch::slow_start,
    cache::{Cache, Change},
    error::{During as _, ReconcileError, describe, is_namespace_terminating, unless_gone},
    events::Recorder,
    expectations::Expectations,
    key::{Key, controller_of, controller_reference, name, namespace, uid},
    pods,
    queue::WorkQueue,
};

mod plan;
mod track;

use plan::Streak;

/// Most pods made in one go.
const BURST: usize = 500;
/// The controller that Jobs name when they want this one.
const OWN_NAME: &str = "kubernetes.io/job-controller";

/// See the [module](self).
pub(crate) struct Jobs {
    pub(crate) client: Client,
    pub(crate) jobs: Cache<Job>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) events: Recorder,
    pub(crate) queue: WorkQueue<Key>,
    pub(crate) expectations: Arc<Expectations>,
    pub(crate) memory: Mutex<HashMap<Key, Memory>>,
}

/// What is remembered of a Job between rounds; lost without harm.
#[derive(Default)]
pub(crate) struct Memory {
    streak: Streak,
    /// UIDs of pods whose finalizer was removed, until the cache shows it.
    released: HashSet<String>,
}

// === impl Jobs ===

impl Jobs {
    /// Takes the next step of a Job.
    pub(crate) async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(job) = self.jobs.get(&key) else {
            self.expectations.forget(&key);
            self.memory.lock().remove(&key);
            return self.release_orphans(&key).await.map(|()| None);
        };
        let spec = job.spec.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|manager| manager != OWN_NAME) {
            return Ok(None);
        }
        let pods = self.pods.managed_by(&key.namespace, uid(&job.metadata));
        if job.metadata.deletion_timestamp.is_some() {
            // Nobody reads the numbers any more, and the pods must be able to go.
            let tracked: Vec<_> = pods.into_iter().filter(|pod| track::is_tracked(pod)).collect();
            return self.release(&key, &tracked).await.map(|()| None);
        }
        if let Some(finished) = plan::finished_at(&job) {
            return self.expire(&job, finished).await;
        }
        if let Some(field) = plan::unsupported(&spec) {
            let message = format!("{field} is not supported; no pods are created");
            self.events.warning(&*job, "Unsupported", message);
            return Ok(None);
        }
        let plan = {
            let mut memory = self.memory.lock();
            let memory = memory.entry(key.clone()).or_default();
            // What the cache shows needs no remembering.
            let tracked: HashSet<_> =
                pods.iter().filter(|pod| track::is_tracked(pod)).map(|pod| uid(&pod.metadata)).collect();
            memory.released.retain(|uid| tracked.contains(uid.as_str()));
            let settled = self.expectations.settled(&key);
            plan::plan(&job, &pods, &memory.released, memory.streak, settled, Timestamp::now())
        };
        if job.status.as_ref() != Some(&plan.status) {
            let mut updated = Job::clone(&job);
            updated.status = Some(plan.status);
            let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &updated).await;
            written.during(|| "write the status".to_owned())?;
        }
        // Only now are the failures on record, so a round that is repeated counts them once.
        self.memory.lock().entry(key.clone()).or_default().streak = plan.streak;
        for (warning, reason, message) in plan.events {
            match warning {
                true => self.events.warning(&*job, reason, message.to_owned()),
                false => self.events.normal(&*job, reason, message.to_owned()),
            }
        }
        self.release(&key, &plan.release).await?;
        if !plan.release.is_empty() {
            self.queue.add(key.clone());
        }
        self.delete(&key, &job, &plan.delete).await?;
        self.create(&key, &job, plan.create.min(BURST)).await?;
        Ok(plan.again)
    }

    async fn create(&self, key: &Key, job: &Job, count: usize) -> Result<(), ReconcileError> {
        if count == 0 {
            return Ok(());
        }
        let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let mut pod = pods::from_template(&template, &key.namespace, &key.name, controller_reference(job));
        pod.metadata.finalizers.get_or_insert_default().push(track::FINALIZER.to_owned());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        self.expectations.expect_additions(key, count);
        let (made, error) = slow_start(count, |_| async {
            let made = api.create(&PostParams::default(), &pod).await?;
            self.events.normal(job, "SuccessfulCreate", format!("Created pod: {}", name(&made.metadata)));
            Ok(())
        })
        .await;
        self.expectations.addition_settled(key, count - made);
        match error {
            None => Ok(()),
            Some(error) if is_namespace_terminating(&error) => Ok(()),
            Some(error) => {
                self.events.warning(job, "FailedCreate", format!("Error creating: {}", describe(&error)));
                Err(error).during(|| "create pods".to_owned())
            }
        }
    }

    async fn delete(&self, key: &Key, job: &Job, surplus: &[Arc<Pod>]) -> Result<(), ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        self.expectations.expect_deletions(key, surplus.iter().map(|pod| uid(&pod.metadata)));
        let results = join_all(surplus.iter().map(|pod| async {
            let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams::background().preconditions(preconditions);
            let result = api.delete(name(&pod.metadata), &params).await;
            if result.is_ok() {
                self.events.normal(job, "SuccessfulDelete", format!("Deleted pod: {}", name(&pod.metadata)));
            } else {
                self.expectations.deletion_settled(key, uid(&pod.metadata));
            }
            unless_gone(result)
        }))
        .await;
        results.into_iter().collect::<Result<(), _>>().during(|| "delete pods".to_owned())
    }

    /// Removes the finalizer from pods that are counted or that nobody will count.
    async fn release(&self, key: &Key, pods: &[Arc<Pod>]) -> Result<(), ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let results = join_all(pods.iter().map(|pod| async {
            let kept: Vec<_> =
                pod.metadata.finalizers.iter().flatten().filter(|own| *own != track::FINALIZER).collect();
            let patch = json!({"metadata": {
                "finalizers": if kept.is_empty() { json!(null) } else { json!(kept) },
                "resourceVersion": pod.metadata.resource_version,
            }});
            let patched = api.patch(name(&pod.metadata), &PatchParams::default(), &Patch::Merge(patch)).await;
            unless_gone(patched)?;
            if let Some(memory) = self.memory.lock().get_mut(key) {
                memory.released.insert(uid(&pod.metadata).to_owned());
            }
            Ok(())
        }))
        .await;
        let results: kube::Result<()> = results.into_iter().collect();
        results.during(|| "let counted pods go".to_owned())
    }

    /// Frees the pods of a Job that is gone.
    async fn release_orphans(&self, key: &Key) -> Result<(), ReconcileError> {
        let pods: Vec<_> = self
            .pods
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|pod| track::is_tracked(pod) && manager(pod).as_ref() == Some(key))
            .collect();
        self.release(key, &pods).await
    }

    /// Deletes the Job when it has been finished for as long as it wanted to be kept.
    async fn expire(&self, job: &Job, finished: Timestamp) -> Result<Option<Duration>, ReconcileError> {
        let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let Some(ttl) = ttl else { return Ok(None) };
        let expires = finished + SignedDuration::from_secs(i64::from(ttl));
        let left = Duration::try_from(expires.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let preconditions = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::foreground().preconditions(preconditions);
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace(&job.metadata));
        unless_gone(api.delete(name(&job.metadata), &params).await)
            .during(|| "delete the job after its time".to_owned())?;
        Ok(None)
    }
}

/// Adds the Jobs that a change of a pod concerns, and counts it off against what they expect.
pub(crate) fn on_pod(change: &Change<'_, Pod>, expectations: &Expectations, queue: &WorkQueue<Key>) {
    for pod in change.versions() {
        let Some(key) = manager(pod) else { continue };
        if matches!(change, Change::Added(_)) {
            expectations.addition_settled(&key, 1);
        }
        if matches!(change, Change::Deleted(_)) || pods::is_terminating(pod) {
            expectations.deletion_settled(&key, uid(&pod.metadata));
        }
        queue.add(key);
    }
}

fn manager(pod: &Pod) -> Option<Key> {
    let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "Job")?;
    Some(Key::new(namespace(&pod.metadata), &owner.name))
}
