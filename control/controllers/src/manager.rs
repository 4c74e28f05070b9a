//! Puts caches, queues and controllers together.

use std::{collections::HashMap, fmt, future::Future, sync::Arc};

use kube::Client;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    cache::{Cached, Change, Informer},
    deployment::{self, Deployments},
    endpointslice::{self, EndpointSlices},
    error::ReconcileError,
    events,
    expectations::Expectations,
    gc::GarbageCollector,
    informers::{Informers, Tasks},
    job::{self, Jobs},
    key::{Key, namespace},
    metrics::Metrics,
    namespace::Namespaces,
    nodelifecycle::NodeLifecycle,
    podgc::PodGc,
    queue::{WorkQueue, work},
    replicaset::{self, ReplicaSets},
};

/// See the [module](self).
pub(crate) struct Manager {
    client: Client,
    config: Config,
    metrics: Metrics,
}

// === impl Manager ===

impl Manager {
    pub(crate) fn new(client: Client, config: Config, metrics: Metrics) -> Self {
        Self { client, config, metrics }
    }

    /// Starts the caches, waits until they are complete, and runs the controllers.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let client = &self.client;
        let mut informers = Informers::new(client);
        let (recorders, event_writer) = events::channel(client.clone());
        let mut tasks = Tasks::new(shutdown.clone());

        let collector = GarbageCollector::new(client.clone());
        informers.tell_collector(&collector);

        let sets_queue = WorkQueue::new();
        let replica_sets = Arc::new(ReplicaSets {
            client: client.clone(),
            sets: informers.sets.cache(),
            pods: informers.pods.cache(),
            events: recorders.of("replicaset-controller"),
            expectations: Arc::new(Expectations::default()),
        });
        enqueue(&mut informers.sets, &sets_queue);
        let (sets, expectations, queue) =
            (informers.sets.cache(), replica_sets.expectations.clone(), sets_queue.clone());
        informers.pods.on_change(move |change| replicaset::on_pod(&change, &sets, &expectations, &queue));

        let deployments_queue = WorkQueue::new();
        let deployments = Arc::new(Deployments {
            client: client.clone(),
            deployments: informers.deployments.cache(),
            sets: informers.sets.cache(),
            pods: informers.pods.cache(),
            events: recorders.of("deployment-controller"),
        });
        enqueue(&mut informers.deployments, &deployments_queue);
        let (cache, queue) = (informers.deployments.cache(), deployments_queue.clone());
        informers.sets.on_change(move |change| deployment::on_set(&change, &cache, &queue));
        let (cache, sets, queue) =
            (informers.deployments.cache(), informers.sets.cache(), deployments_queue.clone());
        informers.pods.on_change(move |change| deployment::on_pod(&change, &cache, &sets, &queue));

        let jobs_queue = WorkQueue::new();
        let jobs = Arc::new(Jobs {
            client: client.clone(),
            jobs: informers.jobs.cache(),
            pods: informers.pods.cache(),
            events: recorders.of("job-controller"),
            queue: jobs_queue.clone(),
            expectations: Arc::new(Expectations::default()),
            memory: Mutex::new(HashMap::new()),
        });
        enqueue(&mut informers.jobs, &jobs_queue);
        let (expectations, queue) = (jobs.expectations.clone(), jobs_queue.clone());
        informers.pods.on_change(move |change| job::on_pod(&change, &expectations, &queue));

        let slices_queue = WorkQueue::new();
        let slices = Arc::new(EndpointSlices {
            client: client.clone(),
            services: informers.services.cache(),
            slices: informers.slices.cache(),
            pods: informers.pods.cache(),
            nodes: informers.nodes.cache(),
            events: recorders.of("endpoint-slice-controller"),
        });
        enqueue(&mut informers.services, &slices_queue);
        let (services, queue) = (informers.services.cache(), slices_queue.clone());
        informers.pods.on_change(move |change| endpointslice::on_pod(&change, &services, &queue));
        let queue = slices_queue.clone();
        informers.slices.on_change(move |change| endpointslice::on_slice(&change, &queue));

        let namespaces_queue = WorkQueue::new();
        let namespaces = Arc::new(Namespaces {
            client: client.clone(),
            namespaces: informers.namespaces.cache(),
            accounts: informers.accounts.cache(),
            root_cas: informers.root_cas.cache(),
            ca_pem: self.config.ca_pem.as_deref().map(Arc::from),
        });
        enqueue(&mut informers.namespaces, &namespaces_queue);
        enqueue_namespace(&mut informers.accounts, &namespaces_queue);
        enqueue_namespace(&mut informers.root_cas, &namespaces_queue);
        let (cache, queue) = (informers.namespaces.cache(), namespaces_queue.clone());
        informers.pods.on_change(move |change| {
            // The last pod is what a namespace that is being deleted usually waits for.
            let key = Key::new("", namespace(&change.latest().metadata));
            if matches!(change, Change::Deleted(_))
                && cache.get(&key).is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some())
            {
                queue.add(key);
            }
        });

        let nodes_queue = WorkQueue::new();
        let nodes = Arc::new(NodeLifecycle::new(
            client.clone(),
            &self.config,
            (informers.nodes.cache(), informers.pods.cache()),
            recorders.of("node-controller"),
            nodes_queue.clone(),
        ));
        let lifecycle = nodes.clone();
        informers.nodes.on_change(move |change| lifecycle.on_node(&change));
        let lifecycle = nodes.clone();
        informers.leases.on_change(move |change| lifecycle.on_lease(&change));
        let lifecycle = nodes.clone();
        informers.pods.on_change(move |change| lifecycle.on_pod(&change));

        let pod_gc = PodGc {
            client: client.clone(),
            pods: informers.pods.cache(),
            nodes: informers.nodes.cache(),
            terminated_threshold: self.config.terminated_pods,
        };

        tasks.running.spawn(event_writer.run(shutdown.clone()));
        informers.start(&mut tasks);
        if !tasks.wait_until_synced().await {
            return;
        }
        tracing::debug!("caches complete, controllers start");

        self.work(&mut tasks, "deployment", deployments_queue, deployments, |c, key| async move {
            c.reconcile(key).await
        });
        self.work(&mut tasks, "replicaset", sets_queue, replica_sets, |c, key| async move {
            c.reconcile(key).await
        });
        self.work(&mut tasks, "job", jobs_queue, jobs, |c, key| async move { c.reconcile(key).await });
        self.work(&mut tasks, "endpointslice", slices_queue, slices, |c, key| async move {
            c.reconcile(key).await
        });
        self.work(&mut tasks, "namespace", namespaces_queue, namespaces, |c, key| async move {
            c.reconcile(key).await
        });
        self.work(
            &mut tasks,
            "nodelifecycle",
            nodes_queue,
            nodes,
            |c, key| async move { c.reconcile(key).await },
        );
        let queue = collector.queue();
        self.work(&mut tasks, "gc", queue, collector, |c, uid| async move { c.reconcile(uid).await });
        tasks.running.spawn(pod_gc.run(shutdown));
        tasks.finished().await;
    }

    fn work<C, K, F>(
        &self,
        tasks: &mut Tasks,
        name: &'static str,
        queue: WorkQueue<K>,
        controller: Arc<C>,
        reconcile: impl Fn(Arc<C>, K) -> F + Send + 'static,
    ) where
        C: Send + Sync + 'static,
        K: Clone + Eq + std::hash::Hash + fmt::Display + Send + 'static,
        F: Future<Output = Result<Option<std::time::Duration>, ReconcileError>> + Send + 'static,
    {
        let (metrics, shutdown) = (self.metrics.of(name), tasks.shutdown.clone());
        let reconcile = move |key| reconcile(controller.clone(), key);
        tasks.running.spawn(work(queue, self.config.concurrency, metrics, reconcile, shutdown));
    }
}

/// Adds the key of every object that changes.
fn enqueue<K: Cached>(informer: &mut Informer<K>, queue: &WorkQueue<Key>) {
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(Key::of(change.latest().meta())));
}

/// Adds the namespace of every object that changes.
fn enqueue_namespace<K: Cached>(informer: &mut Informer<K>, queue: &WorkQueue<Key>) {
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(Key::new("", namespace(change.latest().meta()))));
}
