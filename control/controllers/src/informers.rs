//! The caches of all controllers, and the tasks that keep them and the controllers running.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    batch::v1::Job,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, runtime::watcher};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use weft_api::registry;

use crate::{
    cache::{Cached, Change, Informer},
    gc::GarbageCollector,
    kinds,
    namespace::{DEFAULT_ACCOUNT, ROOT_CA},
};

/// One informer for every kind that several controllers read.
pub(crate) struct Informers {
    pub(crate) pods: Informer<Pod>,
    pub(crate) nodes: Informer<Node>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) services: Informer<Service>,
    pub(crate) slices: Informer<EndpointSlice>,
    pub(crate) deployments: Informer<Deployment>,
    pub(crate) sets: Informer<ReplicaSet>,
    pub(crate) jobs: Informer<Job>,
    pub(crate) leases: Informer<Lease>,
    pub(crate) accounts: Informer<ServiceAccount>,
    pub(crate) root_cas: Informer<ConfigMap>,
    /// Metadata of all other kinds, for the garbage collector.
    pub(crate) others: Vec<Informer<kinds::Meta>>,
}

/// Tasks that run until the shutdown.
pub(crate) struct Tasks {
    pub(crate) running: JoinSet<()>,
    synced: Vec<watch::Receiver<bool>>,
    pub(crate) shutdown: CancellationToken,
}

// === impl Informers ===

impl Informers {
    pub(crate) fn new(client: &Client) -> Self {
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
    pub(crate) fn tell_collector(&mut self, collector: &Arc<GarbageCollector>) {
        fn tell<K: Cached>(informer: &mut Informer<K>, collector: &Arc<GarbageCollector>) {
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

    pub(crate) fn start(self, tasks: &mut Tasks) {
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
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self { running: JoinSet::new(), synced: Vec::new(), shutdown }
    }

    fn follow<K: Cached>(&mut self, informer: Informer<K>) {
        self.synced.push(informer.synced());
        self.running.spawn(informer.run(self.shutdown.clone()));
    }

    /// Waits until every cache holds a complete list; false if the shutdown came first.
    pub(crate) async fn wait_until_synced(&mut self) -> bool {
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

    pub(crate) async fn finished(mut self) {
        while let Some(ended) = self.running.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a controller ended");
            }
        }
    }
}
