//! An API server with controllers, and a stand-in for nodes: every pod runs and is ready at once.

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weft_apiserver::ApiServer;
use weft_store::EmbeddedStore;

/// See the [module](self). Everything ends when it is dropped.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    shutdown: CancellationToken,
    _server: ApiServer,
    _data: TempDir,
}

impl Cluster {
    pub(crate) async fn start(config: weft_controllers::Config) -> Self {
        let data = TempDir::new().expect("a temporary directory");
        let store =
            EmbeddedStore::open(&data.path().join("store"), Default::default()).expect("a new store opens");
        let mut server_config = weft_apiserver::Config::new(data.path().to_owned());
        server_config.listen.set_port(0);
        let shutdown = CancellationToken::new();
        let server = weft_apiserver::start(server_config, Arc::new(store), shutdown.clone());
        let server = server.await.expect("the API server starts");
        let client = server.client("system:kube-controller-manager", &[]);
        tokio::spawn(weft_controllers::run(client, config, shutdown.clone()));
        let client = server.client("admin", &["system:masters"]);
        tokio::spawn(play_node(client.clone(), shutdown.clone()));
        Self { client, shutdown, _server: server, _data: data }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes an object in `default`.
    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let object: K = serde_json::from_value(object).expect("a valid object");
        self.api().create(&PostParams::default(), &object).await.expect("the object is made")
    }

    /// Merges a patch into an object in `default`.
    pub(crate) async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = self.api();
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the object is patched");
    }

    /// Objects in `default` with the labels.
    pub(crate) async fn list<K>(&self, labels: &str) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = self.api();
        api.list(&ListParams::default().labels(labels)).await.expect("objects are listed").items
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Asks again and again until the answer is yes.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    for _ in 0..1000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("in vain: {what}");
}

/// Does what agents do: starts pods, and confirms the end of those that are told to go. Pods of the image `never-ready`
/// run without becoming ready, those of `quick` end with success.
async fn play_node(client: Client, shutdown: CancellationToken) {
    let events = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events.take_until(shutdown.cancelled_owned()));
    let mut address = 0_u32;
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        if pod.metadata.deletion_timestamp.is_some() {
            if pod.metadata.deletion_grace_period_seconds != Some(0) {
                let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
            }
            continue;
        }
        if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Pending") {
            continue;
        }
        address += 1;
        let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()).and_then(|c| c.image.clone());
        let (phase, ready) = match image.as_deref() {
            Some("quick") => ("Succeeded", "False"),
            Some("never-ready") => ("Running", "False"),
            _ => ("Running", "True"),
        };
        let status = json!({"status": {
            "phase": phase,
            "podIP": format!("10.1.{}.{}", address / 250, address % 250 + 1),
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }});
        let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
    }
}
