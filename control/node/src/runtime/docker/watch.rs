//! The Engine's events: which pods to look at.

use std::{collections::HashMap, pin::pin, time::Duration};

use bollard::{Docker, query_parameters::EventsOptionsBuilder};
use futures::StreamExt as _;
use tokio::sync::broadcast;
use weft_kit::backoff::Backoff;

use super::engine::{self, Labels, POD_UID};
use crate::runtime::PodUid;

/// Follows events for as long as it lives. Events of the time without a connection are lost, so after each
/// reconnection every pod is looked at.
pub(super) async fn run(docker: Docker, labels: Labels, changes: broadcast::Sender<PodUid>) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let filters = HashMap::from([
            ("label".to_owned(), vec![labels.cluster_filter()]),
            ("type".to_owned(), vec!["container".to_owned()]),
        ]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let mut events = pin!(docker.events(Some(options)));
        if docker.ping().await.is_ok() {
            announce_all(&docker, &labels, &changes).await;
        }
        while let Some(event) = events.next().await {
            let Ok(event) = event else { break };
            backoff.reset();
            let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
            let uid = attributes.get(POD_UID).and_then(|uid| PodUid::new(uid));
            // Probes of ours make events by the dozen that change nothing.
            let matters = event.action.is_some_and(|action| !action.starts_with("exec_"));
            if let (Some(uid), true) = (uid, matters) {
                let _ = changes.send(uid);
            }
        }
        let delay = backoff.next_delay();
        tracing::warn!(?delay, "the Docker Engine's events ended, connecting again");
        tokio::time::sleep(delay).await;
    }
}

async fn announce_all(docker: &Docker, labels: &Labels, changes: &broadcast::Sender<PodUid>) {
    let Ok(listed) = engine::list(docker, &[labels.cluster_filter()]).await else { return };
    for pod in listed.iter().filter_map(engine::pod_of) {
        let _ = changes.send(pod.uid);
    }
}
