//! Kubernetes events: what happened, for `kubectl describe`.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, Node, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Name under which the agent reports.
pub(crate) const COMPONENT: &str = "weft-node";
/// Events that wait for the API server; more are dropped, as losing one must never hold up a container.
const QUEUE: usize = 1024;
/// Events that are remembered so that a repetition counts up instead of filling the list.
const REMEMBERED: usize = 4096;

/// Records events. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Message>,
}

#[derive(Debug)]
struct Message {
    object: ObjectReference,
    severity: Severity,
    reason: &'static str,
    text: String,
    at: Timestamp,
}

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// Two events that are the same but for their time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: Option<String>,
    field_path: Option<String>,
    reason: &'static str,
    text: String,
}

struct Sent {
    namespace: String,
    name: String,
    count: i32,
}

// === impl Recorder ===

impl Recorder {
    /// A recorder, and the task that sends; it ends after `shutdown` once the queue is empty.
    pub(crate) fn new(
        client: kube::Client,
        node: String,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, messages) = mpsc::channel(QUEUE);
        (Self { queue }, send_all(client, node, messages, shutdown))
    }

    /// About a pod, or one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        text: impl Into<String>,
    ) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| format!("spec.containers{{{name}}}")),
        };
        self.send(object, severity, reason, text.into());
    }

    /// About the node.
    pub(crate) fn node(
        &self,
        node: &Node,
        severity: Severity,
        reason: &'static str,
        text: impl Into<String>,
    ) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: node.metadata.name.clone(),
            uid: node.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        self.send(object, severity, reason, text.into());
    }

    fn send(&self, object: ObjectReference, severity: Severity, reason: &'static str, text: String) {
        tracing::debug!(object = object.name.as_deref(), reason, text, "event");
        let message = Message { object, severity, reason, text, at: Timestamp::now() };
        if self.queue.try_send(message).is_err() {
            tracing::warn!(reason, "an event was dropped: the API server does not keep up");
        }
    }
}

async fn send_all(
    client: kube::Client,
    node: String,
    mut messages: mpsc::Receiver<Message>,
    shutdown: CancellationToken,
) {
    let mut sent: HashMap<Key, Sent> = HashMap::new();
    loop {
        let message = tokio::select! {
            biased;
            message = messages.recv() => message,
            () = shutdown.cancelled() => messages.try_recv().ok(),
        };
        let Some(message) = message else { return };
        if sent.len() >= REMEMBERED {
            sent.clear();
        }
        if let Err(error) = send(&client, &node, message, &mut sent).await {
            tracing::debug!(%error, "an event was not stored");
        }
    }
}

async fn send(
    client: &kube::Client,
    node: &str,
    message: Message,
    sent: &mut HashMap<Key, Sent>,
) -> Result<(), kube::Error> {
    let key = Key {
        uid: message.object.uid.clone(),
        field_path: message.object.field_path.clone(),
        reason: message.reason,
        text: message.text.clone(),
    };
    let at = Time(Timestamp::from_second(message.at.as_second()).unwrap_or(message.at));
    if let Some(before) = sent.get_mut(&key) {
        let events: Api<Event> = Api::namespaced(client.clone(), &before.namespace);
        let patch = json!({"count": before.count + 1, "lastTimestamp": at});
        match events.patch(&before.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                before.count += 1;
                return Ok(());
            }
            // Expired or deleted: it begins anew.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    // Events about things outside of namespaces live in `default`.
    let namespace = message.object.namespace.clone().unwrap_or_else(|| "default".into());
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let created = events.create(&PostParams::default(), &event(node, &message, &namespace, at)).await?;
    sent.insert(key, Sent { namespace, name: created.name_any(), count: 1 });
    Ok(())
}

fn event(node: &str, message: &Message, namespace: &str, at: Time) -> Event {
    let object = message.object.name.as_deref().unwrap_or("unknown");
    Event {
        metadata: ObjectMeta {
            // As client-go names them: unique, and sorted by time for one object.
            name: Some(format!("{object}.{:x}", message.at.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: message.object.clone(),
        type_: Some(match message.severity {
            Severity::Normal => "Normal".into(),
            Severity::Warning => "Warning".into(),
        }),
        reason: Some(message.reason.into()),
        message: Some(message.text.clone()),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        count: Some(1),
        ..Event::default()
    }
}
