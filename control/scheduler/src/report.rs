//! Telling users what became of a pod: condition and events, in kube-scheduler's words.

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::pod::PodInfo;

/// Why a pod has no node, as `reason` of its `PodScheduled` condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No node will take it.
    Unschedulable,
    /// The attempt itself went wrong.
    SchedulerError,
}

/// Writes conditions and events under the scheduler's name.
#[derive(Clone)]
pub(crate) struct Reporter {
    client: Client,
    scheduler_name: String,
}

// === impl Reporter ===

impl Reporter {
    pub(crate) fn new(client: Client, scheduler_name: String) -> Self {
        Self { client, scheduler_name }
    }

    /// The event `Scheduled`.
    pub(crate) async fn scheduled(&self, pod: &PodInfo, node: &str) {
        let message = format!("Successfully assigned {} to {node}", pod.key);
        self.event(pod, "Normal", "Scheduled", "Binding", message).await;
    }

    /// The condition `PodScheduled=False` and the event `FailedScheduling`.
    pub(crate) async fn failed(&self, pod: &PodInfo, failure: Failure, message: String) {
        let reason = match failure {
            Failure::Unschedulable => "Unschedulable",
            Failure::SchedulerError => "SchedulerError",
        };
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
            "lastTransitionTime": Time(Timestamp::now()),
        });
        // The UID makes the server refuse the patch if the name belongs to another pod by now.
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        let patched =
            pods.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        if let Err(error) = patched {
            tracing::debug!(pod = %pod.key, error = %weft_kit::error::chain(&error), "cannot write the pod's condition");
        }
        self.event(pod, "Warning", "FailedScheduling", "Scheduling", message).await;
    }

    async fn event(&self, pod: &PodInfo, type_: &str, reason: &str, action: &str, message: String) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.key.name, now.as_nanosecond())),
                namespace: Some(pod.key.namespace.to_string()),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.key.name.to_string()),
                namespace: Some(pod.key.namespace.to_string()),
                uid: Some(pod.uid.clone()),
                ..Default::default()
            },
            type_: Some(type_.to_owned()),
            reason: Some(reason.to_owned()),
            action: Some(action.to_owned()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            event_time: Some(MicroTime(now)),
            source: Some(EventSource { component: Some(self.scheduler_name.clone()), ..Default::default() }),
            reporting_component: Some(self.scheduler_name.clone()),
            reporting_instance: Some(self.scheduler_name.clone()),
            ..Default::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::debug!(pod = %pod.key, error = %weft_kit::error::chain(&error), "cannot write an event");
        }
    }
}
