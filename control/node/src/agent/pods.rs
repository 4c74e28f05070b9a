//! The watch on this node's pods: one worker per pod, and what belongs to no pod removed.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use parking_lot::RwLock;
use prometheus::{IntCounter, IntGauge, Registry};
use tokio::{
    sync::{Notify, broadcast, watch},
    task::JoinSet,
};

use crate::{
    config::{StopMode, told_to_stop},
    pod::{Intent, PodContext, Worker},
    runtime::{PodRef, PodUid},
};

/// The pods that this node has, for whoever asks by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodTable {
    pods: Arc<RwLock<HashMap<PodUid, Arc<Pod>>>>,
}

/// Starts, feeds and ends the workers.
pub(super) struct PodManager {
    ctx: Arc<PodContext>,
    table: PodTable,
    /// Canonical for which workers run.
    workers: HashMap<PodUid, Handle>,
    tasks: JoinSet<PodUid>,
    /// Pods seen since the watch began to list anew.
    listed: HashSet<PodUid>,
    /// Whether leftovers of earlier agents were looked for.
    swept: bool,
    pods: IntGauge,
    lists: IntCounter,
}

struct Handle {
    intents: watch::Sender<Intent>,
    wake: Arc<Notify>,
}

// === impl PodTable ===

impl PodTable {
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.pods.read().values().cloned().collect()
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let is_it = |pod: &&Arc<Pod>| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        let pods = self.pods.read();
        let mut found: Vec<_> = pods.values().filter(is_it).collect();
        // For a moment the pod before may still be on its way out; the newest is meant.
        found.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        found.last().map(|pod| Arc::clone(pod))
    }

    fn contains(&self, uid: &PodUid) -> bool {
        self.pods.read().contains_key(uid)
    }

    fn insert(&self, uid: PodUid, pod: Arc<Pod>) {
        self.pods.write().insert(uid, pod);
    }

    fn remove(&self, uid: &PodUid) {
        self.pods.write().remove(uid);
    }
}

// === impl PodManager ===

impl PodManager {
    pub(super) fn new(ctx: Arc<PodContext>, table: PodTable, registry: &Registry) -> Self {
        let pods = IntGauge::new("weft_node_pods", "Pods that have a worker on this node")
            .expect("the name is a constant and valid");
        let lists = IntCounter::new("weft_node_pod_lists_total", "How often the list of pods was read anew")
            .expect("the name is a constant and valid");
        // A registry that has them already, from an agent that was stopped, keeps showing those.
        let _ = registry.register(Box::new(pods.clone()));
        let _ = registry.register(Box::new(lists.clone()));
        Self {
            ctx,
            table,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            listed: HashSet::new(),
            swept: false,
            pods,
            lists,
        }
    }

    /// Works until told to stop, and until then the workers have.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<Option<StopMode>>) {
        let selector = format!("spec.nodeName={}", self.ctx.node.name);
        let api: Api<Pod> = Api::all(self.ctx.client.clone());
        let watch = watcher(api, watcher::Config::default().fields(&selector)).default_backoff();
        let mut watch = pin!(watch);
        let mut changes = self.ctx.runtime.changes();
        let mode = loop {
            tokio::select! {
                event = watch.next() => match event {
                    Some(Ok(event)) => self.on_event(event),
                    // What runs goes on; the watch comes back by itself.
                    Some(Err(error)) => tracing::debug!(%error, "the watch on pods was interrupted"),
                    None => break StopMode::Detach,
                },
                change = changes.recv() => self.on_change(change),
                Some(ended) = self.tasks.join_next() => self.on_worker_end(ended),
                mode = told_to_stop(&mut stop) => break mode,
            }
        };
        self.end(mode).await;
    }

    fn on_event(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => {
                self.lists.inc();
                self.listed.clear();
            }
            watcher::Event::InitApply(pod) => {
                if let Some(uid) = self.follow(pod) {
                    self.listed.insert(uid);
                }
            }
            watcher::Event::InitDone => self.on_listed(),
            watcher::Event::Apply(pod) => {
                self.follow(pod);
            }
            watcher::Event::Delete(pod) => {
                if let Some(uid) = pod.metadata.uid.as_deref().and_then(PodUid::new) {
                    self.erase(&uid);
                }
            }
        }
    }

    fn follow(&mut self, pod: Pod) -> Option<PodUid> {
        let uid = pod.metadata.uid.as_deref().and_then(PodUid::new)?;
        let at = PodRef {
            uid: uid.clone(),
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
        };
        let pod = Arc::new(pod);
        self.table.insert(uid.clone(), pod.clone());
        match self.workers.get(&uid) {
            Some(handle) => {
                handle.intents.send_replace(Intent::Follow(pod));
            }
            None => self.start_worker(at, Intent::Follow(pod)),
        }
        Some(uid)
    }

    fn start_worker(&mut self, at: PodRef, intent: Intent) {
        let (intents, receiver) = watch::channel(intent);
        let wake = Arc::new(Notify::new());
        let uid = at.uid.clone();
        let worker = Worker::new(self.ctx.clone(), at, receiver, wake.clone());
        self.workers.insert(uid.clone(), Handle { intents, wake });
        self.tasks.spawn(async move {
            Box::pin(worker.run()).await;
            uid
        });
        self.pods.set(i64::try_from(self.workers.len()).unwrap_or(i64::MAX));
    }

    fn erase(&mut self, uid: &PodUid) {
        self.table.remove(uid);
        if let Some(handle) = self.workers.get(uid) {
            handle.intents.send_replace(Intent::Erase);
        }
    }

    /// The list is complete: pods that are not in it are gone, though nobody told us.
    fn on_listed(&mut self) {
        let gone: Vec<PodUid> =
            self.workers.keys().filter(|uid| !self.listed.contains(uid)).cloned().collect();
        for uid in gone {
            self.erase(&uid);
        }
        if !std::mem::replace(&mut self.swept, true) {
            let (ctx, table) = (self.ctx.clone(), self.table.clone());
            // Removing may take its time, and new pods need not wait for it. They are in the table before anything of
            // them exists, so they cannot be taken for leftovers.
            tokio::spawn(async move {
                sweep_runtime(&ctx, |uid| table.contains(uid)).await;
                sweep_files(&ctx, |uid| table.contains(uid)).await;
            });
        }
    }

    fn on_change(&mut self, change: Result<PodUid, broadcast::error::RecvError>) {
        match change {
            Ok(uid) => {
                if let Some(handle) = self.workers.get(&uid) {
                    handle.wake.notify_one();
                }
            }
            Err(_) => self.workers.values().for_each(|handle| handle.wake.notify_one()),
        }
    }

    fn on_worker_end(&mut self, ended: Result<PodUid, tokio::task::JoinError>) {
        match ended {
            Ok(uid) => {
                self.workers.remove(&uid);
            }
            Err(error) => {
                tracing::error!(%error, "a pod's worker failed; its pod is taken up at the next list");
                // Which one it was is not told; whoever has no receiver any more is it.
                self.workers.retain(|_, handle| !handle.intents.is_closed());
            }
        }
        self.pods.set(i64::try_from(self.workers.len()).unwrap_or(i64::MAX));
    }

    async fn end(mut self, mode: StopMode) {
        for handle in self.workers.values() {
            handle.intents.send_replace(Intent::Stop(mode));
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.on_worker_end(ended);
        }
        if mode == StopMode::Drain {
            sweep_runtime(&self.ctx, |_| false).await;
        }
    }
}

/// Removes what the runtime holds of pods that are not `known`.
async fn sweep_runtime(ctx: &PodContext, known: impl Fn(&PodUid) -> bool) {
    let pods = match ctx.runtime.pods().await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::warn!(error = weft_kit::error::chain(&error), "cannot look for leftovers");
            return;
        }
    };
    for pod in pods.into_iter().filter(|pod| !known(&pod.uid)) {
        tracing::info!(pod = %pod, uid = %pod.uid, "removing what is left of a pod");
        if let Err(error) = ctx.runtime.remove_pod(&pod.uid).await {
            tracing::warn!(error = weft_kit::error::chain(&error), "cannot remove it");
        }
    }
}

/// Removes the files of pods that are not `known`.
async fn sweep_files(ctx: &PodContext, known: impl Fn(&PodUid) -> bool) {
    let Ok(entries) = std::fs::read_dir(&ctx.pods_dir) else { return };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_str().and_then(PodUid::new);
        if uid.is_none_or(|uid| !known(&uid)) {
            // What cannot be removed now is met again at the next start.
            let _ = tokio::fs::remove_dir_all(entry.path()).await;
        }
    }
}
