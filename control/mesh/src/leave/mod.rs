//! Tells of each pod that is to go when no proxy sends anything to it any more: the condition
//! [`weft.dev/OutOfRotation`](OUT_OF_ROTATION) of its status, for which the node agent waits before it ends the containers.
//!
//! # Guarantees
//! * It becomes True when every connected proxy that asked for the endpoints of a service of the pod has acknowledged a
//!   version without it, whatever else changed since; at once for a pod that is behind no service.
//! * A proxy that lost its connection, or did not return after a start of control, may not know: it counts until it asks
//!   for endpoints again, and for [`RETURN`] at most. So long after a start nobody knows who else may come back.
//! * What a pod was behind shortly before counts, too: who did not hear of one change may not have heard of the other.
//! * A pod that proxies keep waiting for [`PATIENCE`] has the condition False, which names them.
//!
//! # Caveats
//! * How long the agent waits is its own decision. A slice that is not the EndpointSlice controller's can name a pod
//!   until its very end.

#[cfg(test)]
mod tests;
mod waits;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use weft_api::mesh::OUT_OF_ROTATION;
use weft_discovery::model::PodId;
use weft_kit::error::chain;
use weft_xds::{
    ResourceType,
    pb::envoy::config::core::v3::Node,
    server::{ProxyObserver, SnapshotCache},
    session::Version,
};

use self::waits::{Proxies, Verdict, Waits};
use crate::publisher::Given;

/// How long a proxy may take to return; the agent gives its own proxies four seconds between two attempts.
const RETURN: Duration = Duration::from_secs(5);
/// How long proxies may keep a pod waiting before they are named.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often to look at a pod that waits although nothing happens: who asks for less, or has all when it returns, tells
/// nobody. Sooner while proxies are to return, as the agent waits.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_FOR_RETURN: Duration = Duration::from_millis(100);
/// For how long a pod that is no longer behind a service is known to have been; a proxy that answers nothing for longer
/// is a matter of its own.
const RECENT: Duration = Duration::from_secs(60);
/// Answers come in crowds: what comes meanwhile is looked at together.
const GATHER: Duration = Duration::from_millis(2);
/// Conditions that are written at the same time.
const MAX_WRITES: usize = 16;
/// Before what failed is tried again, and how often it is tried.
const RETRY: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

/// Hears what proxies do. Cheap to tell from any task: while no pod leaves, answers are of no interest.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    /// Whether a pod waits for answers.
    waiting: AtomicBool,
    /// Proxies that lost their connection.
    lost: Mutex<Vec<String>>,
    told: Notify,
}

/// Writes the conditions; see the [module](self).
pub(crate) struct Leave {
    pub(crate) client: Client,
    pub(crate) cache: SnapshotCache,
    pub(crate) given: watch::Receiver<Given>,
    pub(crate) departures: Arc<Departures>,
}

// === impl Departures ===

impl Departures {
    fn news(&self) {
        if self.waiting.load(Ordering::SeqCst) {
            self.told.notify_one();
        }
    }
}

impl ProxyObserver for Departures {
    fn connected(&self, _: &Node) {
        self.news();
    }

    fn disconnected(&self, node: &Node) {
        self.lost.lock().push(node.id.clone());
        self.told.notify_one();
    }

    fn answered(&self, _: &str, type_: ResourceType) {
        if type_ == ResourceType::ClusterLoadAssignment {
            self.news();
        }
    }
}

impl Proxies for SnapshotCache {
    fn holders(&self, set: &str) -> Vec<(String, Option<Version>)> {
        self.holders(ResourceType::ClusterLoadAssignment, set)
    }

    fn has_asked(&self, id: &str) -> bool {
        self.has_asked(id, ResourceType::ClusterLoadAssignment)
    }
}

// === impl Leave ===

impl Leave {
    /// Works until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        shutdown.clone().run_until_cancelled(self.work()).await;
    }

    async fn work(mut self) {
        let mut waits = Waits::default();
        let mut due: VecDeque<(PodId, String, Verdict)> = VecDeque::new();
        let mut writes = FuturesUnordered::new();
        loop {
            tokio::select! {
                changed = self.given.changed() => {
                    // The publisher ends with the process.
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.departures.told.notified() => sleep(GATHER).await,
                () = at(waits.next_look(Instant::now())) => {}
                Some(()) = writes.next() => {}
            }
            let now = Instant::now();
            for id in std::mem::take(&mut *self.departures.lost.lock()) {
                waits.lost(id, now);
            }
            let given = self.given.borrow_and_update().clone();
            if !given.state.is_synced() {
                continue;
            }
            waits.given(&given, now);
            // Before the look: what is answered during it is to be told.
            self.departures.waiting.store(waits.is_waiting(), Ordering::SeqCst);
            due.extend(waits.look(&self.cache, now));
            while writes.len() < MAX_WRITES
                && let Some((pod, uid, verdict)) = due.pop_front()
            {
                writes.push(write(self.client.clone(), pod, uid, verdict));
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn write(client: Client, pod: PodId, uid: String, verdict: Verdict) {
    let api = Api::<Pod>::namespaced(client, &pod.namespace);
    let condition = condition(&verdict, Timestamp::now());
    if let Verdict::Behind(_) = verdict {
        warn!(%pod, message = %condition["message"], "a pod that is to go is still in use");
    }
    let patch = json!({ "metadata": { "uid": uid }, "status": { "conditions": [condition] } });
    for _ in 0..TRIES {
        match api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => return debug!(%pod, ?verdict, "told of a pod that is to go"),
            // Gone, or another pod has the name by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
            Err(error) => {
                warn!(%pod, error = chain(&error), "cannot write the condition of a pod, will retry");
                sleep(RETRY).await;
            }
        }
    }
}

fn condition(verdict: &Verdict, now: Timestamp) -> Value {
    let (status, reason, message) = match verdict {
        Verdict::Out => ("True", "Acknowledged", "no proxy sends anything to this pod any more".to_owned()),
        Verdict::Behind(proxies) => {
            let shown: Vec<&str> = proxies.iter().take(10).map(String::as_str).collect();
            let more = if proxies.len() > shown.len() { ", …" } else { "" };
            let (number, noun) = (proxies.len(), if proxies.len() == 1 { "proxy" } else { "proxies" });
            let message = format!("{number} {noun} may still use this pod: {}{more}", shown.join(", "));
            ("False", "NotAcknowledged", message)
        }
    };
    // Kubernetes' times have whole seconds.
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({ "type": OUT_OF_ROTATION, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": time })
}
