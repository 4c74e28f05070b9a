//! Removes pods that nobody will ever finish: of nodes that are gone, deleted before they had a node, or ended and too many.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Cache,
    error::{During as _, ReconcileError, unless_gone},
    key::{Key, name, namespace, uid},
    pods,
};

/// How often pods are looked through. Nothing waits for this controller.
const INTERVAL: Duration = Duration::from_secs(20);
/// For how long a node must be missing before its pods are given up: its object may be made anew.
const QUARANTINE: Duration = Duration::from_secs(40);

/// See the [module](self).
pub(crate) struct PodGc {
    pub(crate) client: Client,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    /// How many ended pods are kept.
    pub(crate) terminated_threshold: usize,
}

/// Why a pod is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It ended, and so did too many.
    Terminated,
    /// Its node is gone.
    Orphaned,
    /// It was deleted before it had a node, so no agent will confirm it.
    Unscheduled,
}

// === impl PodGc ===

impl PodGc {
    /// Looks through the pods again and again until `shutdown` is cancelled.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut missing: HashMap<String, Instant> = HashMap::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if let Err(error) = self.collect(&mut missing).await {
                tracing::warn!(error = weft_kit::error::chain(&error), "cannot remove pods");
            }
        }
    }

    async fn collect(&self, missing: &mut HashMap<String, Instant>) -> Result<(), ReconcileError> {
        let pods = self.pods.list();
        let lost = self.lost_nodes(&pods, missing).await?;
        for (pod, reason) in plan(&pods, &lost, self.terminated_threshold) {
            tracing::info!(pod = %Key::of(&pod.metadata), ?reason, "removing pod");
            self.remove(&pod, reason).await?;
        }
        Ok(())
    }

    /// Names of nodes that pods name and that have been missing for long enough, the API server's word included.
    async fn lost_nodes(
        &self,
        pods: &[Arc<Pod>],
        missing: &mut HashMap<String, Instant>,
    ) -> Result<Vec<String>, ReconcileError> {
        let is_missing = |node: &str| !node.is_empty() && self.nodes.get(&Key::new("", node)).is_none();
        missing.retain(|node, _| is_missing(node));
        for node in pods.iter().map(|pod| pods::node(pod)).filter(|node| is_missing(node)) {
            missing.entry(node.to_owned()).or_insert_with(Instant::now);
        }
        let mut lost = Vec::new();
        let api: Api<Node> = Api::all(self.client.clone());
        for (node, _) in missing.iter().filter(|(_, since)| since.elapsed() >= QUARANTINE) {
            if api.get_opt(node).await.during(|| format!("read node {node}"))?.is_none() {
                lost.push(node.clone());
            }
        }
        Ok(lost)
    }

    async fn remove(&self, pod: &Pod, reason: Reason) -> Result<(), ReconcileError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&pod.metadata));
        if reason == Reason::Orphaned && !pods::is_terminal(pod) {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": Time(Timestamp::now()),
            });
            let patch = json!({
                "metadata": {"uid": uid(&pod.metadata)},
                "status": {"phase": "Failed", "conditions": [condition]},
            });
            let patched = api
                .patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Strategic(patch))
                .await;
            unless_gone(patched).during(|| "say why the pod goes".to_owned())?;
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
        unless_gone(api.delete(name(&pod.metadata), &params).await).during(|| "delete a pod".to_owned())
    }
}

/// Which pods are to be removed, and why.
fn plan(pods: &[Arc<Pod>], lost_nodes: &[String], threshold: usize) -> Vec<(Arc<Pod>, Reason)> {
    let mut removals = Vec::new();
    let mut ended: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods {
        // Deleted for good already, and held by somebody's finalizer: another deletion changes nothing.
        let held = pod.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
        if held && pod.metadata.deletion_grace_period_seconds == Some(0) {
            continue;
        }
        if pods::is_terminating(pod) && pods::node(pod).is_empty() {
            removals.push((pod.clone(), Reason::Unscheduled));
        } else if lost_nodes.iter().any(|node| node == pods::node(pod)) {
            removals.push((pod.clone(), Reason::Orphaned));
        } else if pods::is_terminal(pod) && !pods::is_terminating(pod) {
            ended.push(pod);
        }
    }
    let surplus = ended.len().saturating_sub(threshold);
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    removals.extend(ended.into_iter().take(surplus).map(|pod| (pod.clone(), Reason::Terminated)));
    removals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod, ready_pod};

    #[test]
    fn pods_without_hope_are_removed_and_others_kept() {
        let mut unscheduled = pod("unscheduled");
        unscheduled.metadata.deletion_timestamp = Some(Time(at(1)));
        let pods = [unscheduled, ready_pod("lost", "gone", 0), ready_pod("well", "here", 0), pod("waiting")];
        let pods = pods.map(Arc::new);
        let removals = plan(&pods, &["gone".to_owned()], 10);
        let reasons: Vec<_> = removals.iter().map(|(pod, reason)| (name(&pod.metadata), *reason)).collect();
        assert_eq!(reasons, [("unscheduled", Reason::Unscheduled), ("lost", Reason::Orphaned)]);
    }

    #[test]
    fn the_oldest_ended_pods_beyond_the_threshold_go() {
        let ended = |name: &str, created: i64| {
            let mut pod = ready_pod(name, "here", 0);
            pod.status.get_or_insert_default().phase = Some("Succeeded".to_owned());
            pod.metadata.creation_timestamp = Some(Time(at(created)));
            Arc::new(pod)
        };
        let removals = plan(&[ended("new", 9), ended("old", 1), ended("middle", 5)], &[], 2);
        assert_eq!(removals.len(), 1);
        assert_eq!(name(&removals[0].0.metadata), "old");
    }
}
