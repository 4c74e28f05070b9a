//! Puts caches, queues and controllers together.

use std::{collections::HashMap, fmt, future::Future, sync::Arc};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    batch::v1::Job,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, Resource, runtime::watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use weft_api::registry;

use crate::{
    Config,
    cache::{Change, Informer},
    deployment::{self, Deployments},
    endpointslice::{self, EndpointSlices},
    error::ReconcileError,
    events,
    expectations::Expectations,
    gc::GarbageCollector,
    job::{self, Jobs},
    key::{Key, namespace},
    kinds,
    metrics::Metrics,
    namespace::{DEFAULT_ACCOUNT, Namespaces, ROOT_CA},
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

/// One informer for every kind that several controllers read.
struct Informers {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    jobs: Informer<Job>,
    leases: Informer<Lease>,
    accounts: Informer<ServiceAccount>,
    root_cas: Informer<ConfigMap>,
    /// Metadata of all other kinds, for the garbage collector.
    others: Vec<Informer<kinds::Meta>>,
}

/// Tasks that run until the shutdown.
struct Tasks {
    running: JoinSet<()>,
    synced: Vec<watch::Receiver<bool>>,
    shutdown: CancellationToken,
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
        let mut tasks = Tasks { running: JoinSet::new(), synced: Vec::new(), shutdown: shutdown.clone() };

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

// === impl Informers ===

impl Informers {
    fn new(client: &Client) -> Self {
        let all = watcher::Config::default;
        let named = |name: &str| all().fields(&format!("metadata.name={name}"));
        let typed =
            ["Pod", "Node", "Namespace", "Service", "EndpointSlice", "Deployment", "ReplicaSet", "Job"];
        // Events belong to nobody, and there are many.
        let others =
            kinds::stored().filter(|resource| resource.kind != "Event" && !typed.contains(&resource.kind));
        let others = others.map(|resource| {
            let api = Api::all_with(client.clone(), &kinds::api_resource(resource));
            Informer::new(api, all(), kinds::api_resource(resource))
        });
        Self {
            pods: Informer::new(Api::all(client.clone()), all(), ()),
            nodes: Informer::new(Api::all(client.clone()), all(), ()),
            namespaces: Informer::new(Api::all(client.clone()), all(), ()),
            services: Informer::new(Api::all(client.clone()), all(), ()),
            slices: Informer::new(Api::all(client.clone()), all(), ()),
            deployments: Informer::new(Api::all(client.clone()), all(), ()),
            sets: Informer::new(Api::all(client.clone()), all(), ()),
            jobs: Informer::new(Api::all(client.clone()), all(), ()),
            leases: Informer::new(Api::namespaced(client.clone(), "kube-node-lease"), all(), ()),
            accounts: Informer::new(Api::all(client.clone()), named(DEFAULT_ACCOUNT), ()),
            root_cas: Informer::new(Api::all(client.clone()), named(ROOT_CA), ()),
            others: others.collect(),
        }
    }

    /// Lets the garbage collector hear of everything that can own or be owned.
    fn tell_collector(&mut self, collector: &Arc<GarbageCollector>) {
        fn tell<K>(informer: &mut Informer<K>, collector: &Arc<GarbageCollector>)
        where
            K: Resource<DynamicType: Clone + Send + Sync>
                + Clone
                + DeserializeOwned
                + fmt::Debug
                + Send
                + Sync
                + 'static,
        {
            let kind = informer.kind();
            let found = registry::by_kind(&K::group(kind), &K::version(kind), &K::kind(kind));
            let Some(resource) = found else { return };
            let collector = collector.clone();
            informer.on_change(move |change| match change {
                Change::Deleted(object) => collector.gone(object.meta()),
                Change::Added(object) | Change::Updated { new: object, .. } => {
                    collector.seen(resource, object.meta())
                }
            });
        }
        tell(&mut self.pods, collector);
        tell(&mut self.nodes, collector);
        tell(&mut self.namespaces, collector);
        tell(&mut self.services, collector);
        tell(&mut self.slices, collector);
        tell(&mut self.deployments, collector);
        tell(&mut self.sets, collector);
        tell(&mut self.jobs, collector);
        self.others.iter_mut().for_each(|informer| tell(informer, collector));
    }

    fn start(self, tasks: &mut Tasks) {
        tasks.follow(self.pods);
        tasks.follow(self.nodes);
        tasks.follow(self.namespaces);
        tasks.follow(self.services);
        tasks.follow(self.slices);
        tasks.follow(self.deployments);
        tasks.follow(self.sets);
        tasks.follow(self.jobs);
        tasks.follow(self.leases);
        tasks.follow(self.accounts);
        tasks.follow(self.root_cas);
        self.others.into_iter().for_each(|informer| tasks.follow(informer));
    }
}

// === impl Tasks ===

impl Tasks {
    fn follow<K>(&mut self, informer: Informer<K>)
    where
        K: Resource<DynamicType: Clone + Send + Sync>
            + Clone
            + DeserializeOwned
            + fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        self.synced.push(informer.synced());
        self.running.spawn(informer.run(self.shutdown.clone()));
    }

    /// Waits until every cache holds a complete list; false if the shutdown came first.
    async fn wait_until_synced(&mut self) -> bool {
        let all = async {
            for synced in &mut self.synced {
                // A watch that ended because of the shutdown; the other branch is about to be taken.
                if synced.wait_for(|synced| *synced).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = all => true,
        }
    }

    async fn finished(mut self) {
        while let Some(ended) = self.running.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a controller ended");
            }
        }
    }
}

/// Adds the key of every object that changes.
fn enqueue<K>(informer: &mut Informer<K>, queue: &WorkQueue<Key>)
where
    K: Resource<DynamicType: Clone + Send + Sync>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(Key::of(change.latest().meta())));
}

/// Adds the namespace of every object that changes.
fn enqueue_namespace<K>(informer: &mut Informer<K>, queue: &WorkQueue<Key>)
where
    K: Resource<DynamicType: Clone + Send + Sync>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(Key::new("", namespace(change.latest().meta()))));
}
