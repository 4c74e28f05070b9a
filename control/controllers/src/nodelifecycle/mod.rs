//! Notices nodes that fell silent, and moves their pods elsewhere.
//!
//! A node renews its Lease in `kube-node-lease`. What counts is when a renewal was *seen here*, by this process's own clock:
//! nodes whose clocks are wrong are not dead, and after a restart every node has its full time again.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    Config,
    cache::{Cache, Change},
    error::{During as _, ReconcileError, unless_gone},
    events::Recorder,
    key::{Key, name, namespace, uid},
    pods,
    queue::WorkQueue,
};

mod assess;
mod disruption;
mod evict;

use assess::{Eviction, NOT_READY, UNREACHABLE};
use disruption::{Disruption, Limiter};

/// See the [module](self).
pub(crate) struct NodeLifecycle {
    client: Client,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    events: Recorder,
    queue: WorkQueue<Key>,
    grace: Duration,
    default_toleration_seconds: i64,
    heard: Mutex<HashMap<Key, Heard>>,
    state: Mutex<State>,
}

/// The last sign of life of a node.
struct Heard {
    at: Instant,
    /// What the sign said; the same again is none.
    renewal: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
}

struct State {
    limiter: Limiter,
    disruption: Disruption,
}

// === impl NodeLifecycle ===

impl NodeLifecycle {
    pub(crate) fn new(
        client: Client,
        config: &Config,
        (nodes, pods): (Cache<Node>, Cache<Pod>),
        events: Recorder,
        queue: WorkQueue<Key>,
    ) -> Self {
        Self {
            client,
            nodes,
            pods,
            events,
            queue,
            grace: config.node_monitor_grace,
            default_toleration_seconds: i64::try_from(config.default_toleration.as_secs())
                .unwrap_or(i64::MAX),
            heard: Mutex::new(HashMap::new()),
            state: Mutex::new(State {
                limiter: Limiter::new(config.node_eviction_interval),
                disruption: Disruption::None,
            }),
        }
    }

    /// Hears of a Lease: a renewal is a sign of life.
    pub(crate) fn on_lease(&self, change: &Change<'_, Lease>) {
        let lease = change.latest();
        let renewal = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        self.hear(Key::new("", name(&lease.metadata)), |heard| {
            std::mem::replace(&mut heard.renewal, renewal) != renewal
        });
    }

    /// Hears of a node: a newer status is a sign of life too.
    pub(crate) fn on_node(&self, change: &Change<'_, Node>) {
        let node = change.latest();
        let key = Key::of(&node.metadata);
        if let Change::Deleted(_) = change {
            self.heard.lock().remove(&key);
            return;
        }
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let times =
            conditions.into_iter().flatten().filter_map(|condition| condition.last_heartbeat_time.as_ref());
        let heartbeat = times.map(|time| time.0).max();
        self.hear(key.clone(), |heard| std::mem::replace(&mut heard.heartbeat, heartbeat) != heartbeat);
        self.queue.add(key);
    }

    /// Hears of a pod that came to a node which may drive it out.
    pub(crate) fn on_pod(&self, change: &Change<'_, Pod>) {
        let pod = change.latest();
        let came = match change {
            Change::Added(_) => true,
            Change::Updated { old, .. } => pods::node(old) != pods::node(pod),
            Change::Deleted(_) => false,
        };
        let key = Key::new("", pods::node(pod));
        if came && self.nodes.get(&key).is_some_and(|node| !evicting_taints(&node).is_empty()) {
            self.queue.add(key);
        }
    }

    /// Brings conditions and taints of a node up to date, and evicts the pods whose time is over.
    pub(crate) async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(node) = self.nodes.get(&key) else { return Ok(None) };
        let silent_for = self.heard.lock().entry(key.clone()).or_insert_with(Heard::now).at.elapsed();
        let mut again = (silent_for < self.grace).then(|| self.grace - silent_for);
        if silent_for >= self.grace {
            let unknown = assess::silenced(&node, Timestamp::now());
            if !unknown.is_empty() {
                tracing::warn!(node = %key, seconds = silent_for.as_secs(), "node has fallen silent");
                self.write_conditions(&node, unknown).await?;
                // The change itself brings the node back here.
                return Ok(Some(self.grace));
            }
        }
        let ready = assess::ready(&node);
        let disruption = self.look_around();
        let (eviction, wait) = match (ready, has_ready_taint(&node)) {
            ("True", _) => (Eviction::Allowed, None),
            // A node that is being emptied needs no second permission, but it can lose the one it has.
            (_, true) if disruption == Disruption::None => (Eviction::Held, None),
            _ => self.state.lock().limiter.ask(disruption),
        };
        again = again.into_iter().chain(wait).min();
        let taints = assess::taints(&node, eviction, Timestamp::now());
        // A node that says itself that it is not ready still reports on its pods.
        if ready == "Unknown" {
            self.mark_pods_unready(&node).await?;
        }
        if let Some(taints) = taints {
            self.write_taints(&node, &taints).await?;
            return Ok(again);
        }
        let next = self.evict(&node).await?;
        Ok(again.into_iter().chain(next).min())
    }

    fn hear(&self, key: Key, is_new: impl FnOnce(&mut Heard) -> bool) {
        let mut heard = self.heard.lock();
        let entry = heard.entry(key).or_insert_with(Heard::now);
        if is_new(entry) {
            entry.at = Instant::now();
        }
    }

    /// How the nodes look together; when that changes, every node is looked at again.
    fn look_around(&self) -> Disruption {
        let nodes = self.nodes.list();
        let ready = nodes.iter().filter(|node| assess::ready(node) == "True").count();
        let disruption = Disruption::of(ready, nodes.len() - ready);
        let before = std::mem::replace(&mut self.state.lock().disruption, disruption);
        if before != disruption {
            tracing::info!(
                ready,
                total = nodes.len(),
                ?disruption,
                "the state of the nodes together changed"
            );
            nodes.iter().for_each(|node| self.queue.add(Key::of(&node.metadata)));
        }
        disruption
    }

    async fn write_conditions(
        &self,
        node: &Node,
        conditions: Vec<k8s_openapi::api::core::v1::NodeCondition>,
    ) -> Result<(), ReconcileError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Strategic(json!({"status": {"conditions": conditions}}));
        let written = api.patch_status(name(&node.metadata), &PatchParams::default(), &patch).await;
        unless_gone(written).during(|| "write the node's conditions".to_owned())?;
        let message = format!("Node {} status is now: NodeNotReady", name(&node.metadata));
        self.events.normal(node, "NodeNotReady", message);
        Ok(())
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), ReconcileError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": if taints.is_empty() { json!(null) } else { json!(taints) }},
        }));
        let written = api.patch(name(&node.metadata), &PatchParams::default(), &patch).await;
        unless_gone(written).during(|| "write the node's taints".to_owned())
    }

    /// Nobody can tell whether the pods of a lost node still serve, so they must not be sent requests.
    async fn mark_pods_unready(&self, node: &Node) -> Result<(), ReconcileError> {
        let results =
            join_all(self.pods_of(node).iter().filter(|pod| pods::is_ready(pod)).map(|pod| async {
                let condition =
                    json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now())});
                let patch =
                    json!({"metadata": {"uid": uid(&pod.metadata)}, "status": {"conditions": [condition]}});
                let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&pod.metadata));
                let patched = api
                    .patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Strategic(patch))
                    .await;
                self.events.warning(&**pod, "NodeNotReady", "Node is not ready".to_owned());
                unless_gone(patched)
            }))
            .await;
        results
            .into_iter()
            .collect::<Result<(), _>>()
            .during(|| "mark the node's pods as not ready".to_owned())
    }

    /// Evicts what is due, and tells when the next pod is.
    async fn evict(&self, node: &Node) -> Result<Option<Duration>, ReconcileError> {
        let taints = evicting_taints(node);
        if taints.is_empty() {
            return Ok(None);
        }
        let now = Timestamp::now();
        let mut next: Option<Duration> = None;
        for pod in self.pods_of(node).iter().filter(|pod| !pods::is_terminating(pod)) {
            let Some(leaves) = evict::leaves_at(pod, &taints, self.default_toleration_seconds, now) else {
                continue;
            };
            match Duration::try_from(leaves.duration_since(now)).unwrap_or(Duration::ZERO) {
                Duration::ZERO => self.evict_pod(pod).await?,
                wait => next = Some(next.map_or(wait, |next| next.min(wait))),
            }
        }
        Ok(next)
    }

    async fn evict_pod(&self, pod: &Pod) -> Result<(), ReconcileError> {
        let message = format!("Marking for deletion Pod {}", Key::of(&pod.metadata));
        self.events.normal(pod, "TaintManagerEviction", message);
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Time(Timestamp::now()),
        });
        let patch = json!({"metadata": {"uid": uid(&pod.metadata)}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(&pod.metadata));
        let patched =
            api.patch_status(name(&pod.metadata), &PatchParams::default(), &Patch::Strategic(patch)).await;
        unless_gone(patched).during(|| "say why the pod goes".to_owned())?;
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().preconditions(preconditions);
        unless_gone(api.delete(name(&pod.metadata), &params).await).during(|| "evict a pod".to_owned())
    }

    fn pods_of(&self, node: &Node) -> Vec<std::sync::Arc<Pod>> {
        let all = self.pods.list();
        all.into_iter()
            .filter(|pod| pods::node(pod) == name(&node.metadata) && !pods::is_terminal(pod))
            .collect()
    }
}

// === impl Heard ===

impl Heard {
    fn now() -> Self {
        Self { at: Instant::now(), renewal: None, heartbeat: None }
    }
}

fn evicting_taints(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

/// Whether the node is being emptied because it is not ready.
fn has_ready_taint(node: &Node) -> bool {
    evicting_taints(node).iter().any(|taint| [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()))
}
