//! The loop that connects watches, queue, decision and API server.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    bind::{BindError, bind},
    cluster::Cluster,
    metrics::Metrics,
    pod::{PodInfo, PodKey},
    queue::{Attempt, Change, Queue},
    report::{Failure, Reporter},
    schedule::schedule,
};

/// Everything the loop knows. One task owns it; nothing is locked.
pub(crate) struct Driver {
    client: Client,
    config: Config,
    metrics: Metrics,
    reporter: Reporter,
    cluster: Cluster,
    queue: Queue,
    /// Bindings that the API server has not answered yet.
    binding: JoinSet<Bound>,
    /// Conditions and events being written.
    reports: JoinSet<()>,
    /// The last failure told for each waiting pod: the same one is not told twice.
    told: HashMap<PodKey, (String, String)>,
    pods: Listing<PodKey>,
    nodes: Listing<String>,
    namespaces: Listing<String>,
}

/// One thing that a watch reported.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, moved once from the watch to the loop"
)]
enum Observed {
    Pod(Event<Pod>),
    Node(Event<Node>),
    Namespace(Event<Namespace>),
}

/// How a binding ended.
struct Bound {
    attempt: Attempt,
    node: String,
    result: Result<(), BindError>,
}

/// Follows a list that a watch starts with, to find what is no longer there.
struct Listing<K> {
    seen: HashSet<K>,
    complete: bool,
}

// === impl Driver ===

impl Driver {
    pub(crate) fn new(client: Client, config: Config, metrics: Metrics) -> Self {
        Self {
            reporter: Reporter::new(client.clone(), config.scheduler_name.clone()),
            queue: Queue::new(config.initial_backoff, config.max_backoff),
            client,
            config,
            metrics,
            cluster: Cluster::default(),
            binding: JoinSet::new(),
            reports: JoinSet::new(),
            told: HashMap::new(),
            pods: Listing::default(),
            nodes: Listing::default(),
            namespaces: Listing::default(),
        }
    }

    /// Runs until `shutdown` is cancelled. Bindings under way are dropped then: the API server has them or has not, and
    /// the next scheduler reads which.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut observed = observe(&self.client);
        loop {
            let deadline = self.queue.next_deadline();
            let ready = self.pods.complete && self.nodes.complete && self.namespaces.complete;
            tokio::select! {
                // What is known goes first: a decision on a picture that is known to be old would be a waste.
                biased;
                () = shutdown.cancelled() => break,
                Some(event) = observed.next() => self.observe(event),
                Some(done) = self.binding.join_next() => match done {
                    Ok(bound) => self.bound(bound),
                    Err(error) => tracing::error!(%error, "a binding was not completed"),
                },
                Some(_) = self.reports.join_next() => {}
                () = sleep_until(deadline), if deadline.is_some() => self.queue.advance(Instant::now()),
                // Always ready, so one pod is placed for every time that nothing else is to be done.
                () = std::future::ready(()), if ready && self.queue.has_active() => self.schedule_next(),
            }
            self.metrics.show_pending(self.queue.counts());
        }
        tracing::debug!("scheduler stopped");
    }

    fn observe(&mut self, event: Observed) {
        match event {
            Observed::Pod(event) => self.observe_pod(event),
            Observed::Node(event) => self.observe_node(event),
            Observed::Namespace(event) => self.observe_namespace(event),
        }
    }

    fn observe_pod(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.pods.start(),
            Event::InitApply(pod) => {
                self.pods.seen.insert(PodKey::of(&pod));
                self.set_pod(&pod);
            }
            Event::Apply(pod) => self.set_pod(&pod),
            Event::Delete(pod) => self.remove_pod(&PodKey::of(&pod)),
            Event::InitDone => {
                let known = [self.cluster.confirmed_pods(), self.queue.keys()].concat();
                for gone in self.pods.finish(known) {
                    self.remove_pod(&gone);
                }
            }
        }
    }

    fn observe_node(&mut self, event: Event<Node>) {
        match event {
            Event::Init => self.nodes.start(),
            Event::InitApply(node) => {
                self.nodes.seen.extend(node.metadata.name.clone());
                self.set_node(&node);
            }
            Event::Apply(node) => self.set_node(&node),
            Event::Delete(node) => {
                self.cluster.remove_node(node.metadata.name.as_deref().unwrap_or_default())
            }
            Event::InitDone => {
                for gone in self.nodes.finish(self.cluster.node_names()) {
                    self.cluster.remove_node(&gone);
                }
            }
        }
    }

    fn observe_namespace(&mut self, event: Event<Namespace>) {
        match event {
            Event::Init => self.namespaces.start(),
            Event::InitApply(namespace) => {
                self.namespaces.seen.extend(namespace.metadata.name.clone());
                self.set_namespace(namespace);
            }
            Event::Apply(namespace) => self.set_namespace(namespace),
            Event::Delete(namespace) => {
                self.cluster.remove_namespace(namespace.metadata.name.as_deref().unwrap_or_default());
            }
            Event::InitDone => {
                for gone in self.namespaces.finish(self.cluster.namespace_names()) {
                    self.cluster.remove_namespace(&gone);
                }
            }
        }
    }

    fn set_node(&mut self, node: &Node) {
        if self.cluster.set_node(node) {
            self.queue.wake(Change::Node, Instant::now());
        }
    }

    fn set_namespace(&mut self, namespace: Namespace) {
        let labels = namespace.metadata.labels.unwrap_or_default();
        if self.cluster.set_namespace(namespace.metadata.name.unwrap_or_default(), labels) {
            self.queue.wake(Change::Namespace, Instant::now());
        }
    }

    fn set_pod(&mut self, pod: &Pod) {
        let key = PodKey::of(pod);
        let spec = pod.spec.as_ref();
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.remove_pod(&key);
        }
        let info = match PodInfo::new(pod) {
            Ok(info) => Arc::new(info),
            Err(error) => {
                let message = weft_kit::error::chain(&error);
                tracing::warn!(pod = %key, error = message, "cannot schedule the pod");
                return self.queue.remove(&key);
            }
        };
        if let Some(node) = info.node_name.clone() {
            self.queue.remove(&key);
            self.told.remove(&key);
            if self.cluster.confirm(info, &node) {
                let now = Instant::now();
                self.queue.wake(Change::PodPlaced, now);
                // An update can also make room: a resized pod, or one that moved.
                self.queue.wake(Change::PodGone, now);
            }
            return;
        }
        let ours = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler")
            == self.config.scheduler_name;
        let gated =
            spec.and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty());
        if !ours || gated || info.terminating {
            self.queue.remove(&key);
        } else if self.cluster.is_assumed(&key)
            && self.cluster.pod(&key).is_some_and(|known| known.uid == info.uid)
        {
            // Its binding is under way.
        } else {
            self.queue.upsert(info);
        }
    }

    fn remove_pod(&mut self, key: &PodKey) {
        self.queue.remove(key);
        self.told.remove(key);
        if self.cluster.remove_pod(key) {
            self.queue.wake(Change::PodGone, Instant::now());
        }
    }

    fn schedule_next(&mut self) {
        let Some(attempt) = self.queue.pop() else { return };
        let started = Instant::now();
        let decision = schedule(&self.cluster.snapshot(), &attempt.pod);
        self.metrics.decision_seconds.observe(started.elapsed().as_secs_f64());
        match decision {
            Ok(node) => {
                self.cluster.assume(attempt.pod.clone(), node.clone());
                let (client, seconds) = (self.client.clone(), self.metrics.binding_seconds.clone());
                self.binding.spawn(async move {
                    let timer = seconds.start_timer();
                    let result = bind(&client, &attempt.pod, &node).await;
                    timer.observe_duration();
                    Bound { attempt, node, result }
                });
            }
            Err(verdict) => {
                self.metrics.attempts.with_label_values(&["unschedulable"]).inc();
                self.tell_failure(&attempt.pod, Failure::Unschedulable, verdict.to_string());
                self.queue.put_unschedulable(attempt, verdict.filters, Instant::now());
            }
        }
    }

    fn bound(&mut self, Bound { attempt, node, result }: Bound) {
        let key = attempt.pod.key.clone();
        match result {
            Ok(()) => {
                self.metrics.attempts.with_label_values(&["scheduled"]).inc();
                self.told.remove(&key);
                tracing::debug!(pod = %key, node, "pod scheduled");
                let reporter = self.reporter.clone();
                self.reports.spawn(async move { reporter.scheduled(&attempt.pod, &node).await });
            }
            Err(error) => {
                self.metrics.attempts.with_label_values(&["error"]).inc();
                tracing::warn!(pod = %key, node, error = weft_kit::error::chain(&error), "cannot bind the pod");
                // The name may belong to another pod by now, whose assumption or place is not ours to take back.
                let same = self.cluster.pod(&key).is_some_and(|known| known.uid == attempt.pod.uid);
                if !same {
                    return;
                }
                let unconfirmed = self.cluster.is_assumed(&key);
                self.cluster.forget(&key);
                self.queue.wake(Change::PodGone, Instant::now());
                // A superseded attempt comes back too, in case the conflict was about something else than the pod's node:
                // the watch takes it out of the queue again if it is gone or placed.
                if unconfirmed {
                    if let BindError::Failed(_) = error {
                        let message = weft_kit::error::chain(&error);
                        self.tell_failure(&attempt.pod, Failure::SchedulerError, message);
                    }
                    self.queue.put_back(attempt, Instant::now());
                }
            }
        }
    }

    fn tell_failure(&mut self, pod: &Arc<PodInfo>, failure: Failure, message: String) {
        let told = (pod.uid.clone(), message);
        if self.told.get(&pod.key) == Some(&told) {
            return;
        }
        let (reporter, pod, message) = (self.reporter.clone(), pod.clone(), told.1.clone());
        self.told.insert(pod.key.clone(), told);
        tracing::debug!(pod = %pod.key, message, "pod not scheduled");
        self.reports.spawn(async move { reporter.failed(&pod, failure, message).await });
    }
}

// === impl Listing ===

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { seen: HashSet::new(), complete: false }
    }
}

impl<K: Eq + Hash> Listing<K> {
    fn start(&mut self) {
        self.seen.clear();
    }

    /// What of `known` the list did not contain.
    fn finish(&mut self, known: Vec<K>) -> Vec<K> {
        self.complete = true;
        let seen = std::mem::take(&mut self.seen);
        known.into_iter().filter(|key| !seen.contains(key)).collect()
    }
}

/// Everything that the three watches report, errors logged and retried.
fn observe(client: &Client) -> impl Stream<Item = Observed> + Send + Unpin + use<> {
    let config = watcher::Config::default;
    let pods = watcher(Api::<Pod>::all(client.clone()), config()).default_backoff();
    let nodes = watcher(Api::<Node>::all(client.clone()), config()).default_backoff();
    let namespaces = watcher(Api::<Namespace>::all(client.clone()), config()).default_backoff();
    stream::select_all([
        pods.filter_map(|event| async { logged(event).map(Observed::Pod) }).boxed(),
        nodes.filter_map(|event| async { logged(event).map(Observed::Node) }).boxed(),
        namespaces.filter_map(|event| async { logged(event).map(Observed::Namespace) }).boxed(),
    ])
}

fn logged<K>(event: Result<Event<K>, watcher::Error>) -> Option<Event<K>> {
    event.inspect_err(|error| tracing::warn!(error = weft_kit::error::chain(error), "watch interrupted")).ok()
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}
