//! Tells the owners of services, in Events, about annotations that cannot be followed and what proxies refuse.

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{self, Event, EventType, Recorder},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use weft_discovery::model::{MeshState, Service};
use weft_kit::error::chain;

use crate::policy::PolicyProblem;

/// Events that wait for the API server. More at once are in the log only.
const MAX_WAITING: usize = 256;

/// Logs each problem once, and hands it to a [`Reports`] that makes it an Event.
pub(crate) struct Warnings {
    told: HashSet<(String, PolicyProblem)>,
    reporter: Reporter,
}

/// The other end of [`Warnings`].
pub(crate) struct Reports(mpsc::Receiver<Report>);

/// Has Events made about services.
#[derive(Clone)]
pub(crate) struct Reporter(mpsc::Sender<Report>);

struct Report {
    about: ObjectReference,
    reason: &'static str,
    note: String,
}

pub(crate) fn channel() -> (Warnings, Reports) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    (Warnings { told: HashSet::new(), reporter: Reporter(sender) }, Reports(receiver))
}

// === impl Warnings ===

impl Warnings {
    /// Tells the problems that were not told before, and forgets those of services that are gone.
    pub(crate) fn update(&mut self, problems: &[(Arc<Service>, PolicyProblem)], state: &MeshState) {
        if problems.is_empty() {
            return;
        }
        let live: HashSet<&str> = state.services.values().map(|service| service.uid.as_str()).collect();
        self.told.retain(|(uid, _)| live.contains(uid.as_str()));
        for (service, problem) in problems {
            if !self.told.insert((service.uid.clone(), problem.clone())) {
                continue;
            }
            warn!(service = %service.id, %problem, "invalid annotation, the default stays");
            self.reporter.warn(service, "InvalidMeshAnnotation", format!("{problem}; the default stays"));
        }
    }

    /// For others who have something to tell about a service.
    pub(crate) fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }
}

// === impl Reporter ===

impl Reporter {
    /// Has an Event of type Warning made.
    pub(crate) fn warn(&self, service: &Service, reason: &'static str, note: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.id.namespace.clone()),
            name: Some(service.id.name.clone()),
            uid: Some(service.uid.clone()),
            ..ObjectReference::default()
        };
        if let Err(error) = self.0.try_send(Report { about, reason, note }) {
            let note = error.into_inner().note;
            debug!(service = %service.id, note, "too many events wait, this one is in the log only");
        }
    }
}

// === impl Reports ===

impl Reports {
    /// Makes Events until `shutdown`.
    pub(crate) async fn run(mut self, client: Client, shutdown: CancellationToken) {
        let reporter = events::Reporter { controller: "weft-mesh".to_owned(), instance: None };
        let recorder = Recorder::new(client, reporter);
        loop {
            let report = tokio::select! {
                () = shutdown.cancelled() => return,
                report = self.0.recv() => report,
            };
            let Some(Report { about, reason, note }) = report else { return };
            let event = Event {
                type_: EventType::Warning,
                reason: reason.to_owned(),
                note: Some(note),
                action: "Configure".to_owned(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &about).await {
                warn!(service = about.name, error = chain(&error), "cannot record an event");
            }
        }
    }
}
