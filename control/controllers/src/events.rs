//! Events: what users read in `kubectl describe`.
//!
//! Core events with a count, because that is what the controllers of Kubernetes write and what tools expect of them. (The
//! recorder of `kube::runtime` joins events that differ only in their text, which would show the first of "Created pod:
//! a", "Created pod: b" twice.)

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

/// For how long the same event counts as a repetition.
const JOIN_WITHIN: Duration = Duration::from_secs(600);
/// Events that wait to be written. More are dropped: they inform, nothing depends on them.
const BACKLOG: usize = 4096;

/// Takes events of one controller.
#[derive(Clone)]
pub(crate) struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<Record>,
}

/// Writes what all recorders take; see [`channel`].
pub(crate) struct Writer {
    client: Client,
    receiver: mpsc::Receiver<Record>,
    written: Mutex<HashMap<Record, Written>>,
}

/// Makes recorders; see [`channel`].
#[derive(Clone)]
pub(crate) struct Recorders(mpsc::Sender<Record>);

/// Two records that are equal are one event with a count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Record {
    component: &'static str,
    kind: String,
    api_version: String,
    namespace: String,
    name: String,
    uid: String,
    warning: bool,
    reason: &'static str,
    message: String,
}

#[derive(Debug, Clone)]
struct Written {
    event: Arc<str>,
    count: i32,
    at: Instant,
}

/// A source of recorders and the writer of what they take.
pub(crate) fn channel(client: Client) -> (Recorders, Writer) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (Recorders(sender), Writer { client, receiver, written: Mutex::new(HashMap::new()) })
}

// === impl Recorders ===

impl Recorders {
    /// The recorder of the controller with this name.
    pub(crate) fn of(&self, component: &'static str) -> Recorder {
        Recorder { component, sender: self.0.clone() }
    }
}

// === impl Recorder ===

impl Recorder {
    /// Something went as it should.
    pub(crate) fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &'static str,
        message: String,
    ) {
        self.record(object, false, reason, message);
    }

    /// Something needs attention.
    pub(crate) fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &'static str,
        message: String,
    ) {
        self.record(object, true, reason, message);
    }

    fn record<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let meta = object.meta();
        let record = Record {
            component: self.component,
            kind: K::kind(&()).into_owned(),
            api_version: K::api_version(&()).into_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            warning,
            reason,
            message,
        };
        if self.sender.try_send(record).is_err() {
            tracing::debug!(reason, "event dropped, too many wait");
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Writes events until `shutdown` is cancelled.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let record = tokio::select! {
                () = shutdown.cancelled() => return,
                record = self.receiver.recv() => record,
            };
            let Some(record) = record else { return };
            if let Err(error) = self.write(record).await {
                tracing::debug!(error = weft_kit::error::chain(&error), "cannot write an event");
            }
        }
    }

    async fn write(&self, record: Record) -> kube::Result<()> {
        // Events about objects outside of namespaces live in `default`.
        let namespace = if record.namespace.is_empty() { "default" } else { &record.namespace };
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let known = self.repetition(&record);
        if let Some(Written { event, count, .. }) = known {
            let patch = json!({"count": count + 1, "lastTimestamp": Time(Timestamp::now())});
            match events.patch(&event, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    self.written
                        .lock()
                        .insert(record, Written { event, count: count + 1, at: Instant::now() });
                    return Ok(());
                }
                // Its time was over; begin anew.
                Err(error) if crate::error::is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let event = event_of(&record, namespace, Timestamp::now());
        let name: Arc<str> = event.metadata.name.as_deref().unwrap_or_default().into();
        events.create(&PostParams::default(), &event).await?;
        self.written.lock().insert(record, Written { event: name, count: 1, at: Instant::now() });
        Ok(())
    }

    fn repetition(&self, record: &Record) -> Option<Written> {
        let mut written = self.written.lock();
        written.retain(|_, written| written.at.elapsed() < JOIN_WITHIN);
        written.get(record).cloned()
    }
}

fn event_of(record: &Record, namespace: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", record.name, now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: Some(record.api_version.clone()),
            kind: Some(record.kind.clone()),
            name: Some(record.name.clone()),
            namespace: Some(record.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: Some(record.uid.clone()),
            ..Default::default()
        },
        type_: Some(if record.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(record.reason.to_owned()),
        message: Some(record.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(record.component.to_owned()), ..Default::default() }),
        reporting_component: Some(record.component.to_owned()),
        ..Default::default()
    }
}
