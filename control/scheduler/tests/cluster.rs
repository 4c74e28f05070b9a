//! The scheduler against a real API server in the same process.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use weft_apiserver::ApiServer;
use weft_store::EmbeddedStore;

/// An API server with a scheduler; both end with it.
struct Cluster {
    client: Client,
    shutdown: CancellationToken,
    _server: ApiServer,
    _data: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let data = TempDir::new().expect("a temporary directory");
        let store =
            EmbeddedStore::open(&data.path().join("store"), Default::default()).expect("a new store opens");
        let mut config = weft_apiserver::Config::new(data.path().to_owned());
        config.listen.set_port(0);
        let shutdown = CancellationToken::new();
        let server = weft_apiserver::start(config, Arc::new(store), shutdown.clone())
            .await
            .expect("the API server starts");
        let client = server.client("system:kube-scheduler", &[]);
        tokio::spawn(weft_scheduler::run(
            client.clone(),
            weft_scheduler::Config::default(),
            shutdown.clone(),
        ));
        let client = server.client("admin", &["system:masters"]);
        Self { client, shutdown, _server: server, _data: data }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn add_node(&self, name: &str, cpu: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let amounts = json!({"cpu": cpu, "memory": "4Gi", "pods": "110"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {
            "name": name, "labels": {"kubernetes.io/hostname": name},
        }});
        let node: Node = serde_json::from_value(node).expect("a valid node");
        nodes.create(&PostParams::default(), &node).await.expect("the node is made");
        let status = json!({"status": {
            "capacity": amounts, "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }});
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("the node becomes ready");
    }

    async fn add_pod(&self, name: &str, cpu: &str) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
        }});
        let pod: Pod = serde_json::from_value(pod).expect("a valid pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("the pod is made");
    }

    /// The pod, once it is as wanted.
    async fn pod_when(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let seen = watcher::watch_object(self.pods(), name).default_backoff();
        let seen = seen.filter_map(|pod| async { pod.ok().flatten() });
        let mut matching = std::pin::pin!(seen.filter(|pod| std::future::ready(wanted(pod))));
        let found = tokio::time::timeout(Duration::from_secs(20), matching.next()).await;
        found.expect("the pod becomes as wanted in time").expect("the watch goes on")
    }

    async fn event(&self, reason: &str) -> Event {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        for _ in 0..200 {
            let list = events.list(&ListParams::default()).await.expect("events are listed");
            if let Some(event) = list.items.into_iter().find(|event| event.reason.as_deref() == Some(reason))
            {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("there is no event {reason}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
}

fn scheduled_condition(pod: &Pod) -> Option<(String, String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?.clone();
    Some((condition.status, condition.reason.unwrap_or_default(), condition.message.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_bound_and_those_that_do_not_fit_are_told_why_and_bound_when_there_is_room() {
    let cluster = Cluster::start().await;
    cluster.add_pod("early", "100m").await;
    let waiting = cluster.pod_when("early", |pod| scheduled_condition(pod).is_some()).await;
    let no_nodes = "no nodes available to schedule pods".to_owned();
    assert_eq!(
        scheduled_condition(&waiting),
        Some(("False".to_owned(), "Unschedulable".to_owned(), no_nodes))
    );

    cluster.add_node("a", "1").await;
    let bound = cluster.pod_when("early", |pod| node_of(pod).is_some()).await;
    assert_eq!(node_of(&bound), Some("a"));
    assert_eq!(scheduled_condition(&bound).map(|condition| condition.0), Some("True".to_owned()));
    let event = cluster.event("Scheduled").await;
    assert_eq!(event.message.as_deref(), Some("Successfully assigned default/early to a"));

    cluster.add_pod("big", "950m").await;
    let refused = cluster.pod_when("big", |pod| scheduled_condition(pod).is_some()).await;
    let sentence = "0/1 nodes are available: 1 Insufficient cpu.".to_owned();
    assert_eq!(
        scheduled_condition(&refused),
        Some(("False".to_owned(), "Unschedulable".to_owned(), sentence))
    );
    cluster.event("FailedScheduling").await;

    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("early", &now).await.expect("the pod is deleted");
    let bound = cluster.pod_when("big", |pod| node_of(pod).is_some()).await;
    assert_eq!(node_of(&bound), Some("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_are_spread_over_the_nodes_and_no_node_is_overcommitted() {
    let cluster = Cluster::start().await;
    for node in ["a", "b", "c"] {
        cluster.add_node(node, "4").await;
    }
    let started = std::time::Instant::now();
    futures::future::join_all((0..100).map(|n| {
        let (cluster, name) = (&cluster, format!("p{n}"));
        async move { cluster.add_pod(&name, "100m").await }
    }))
    .await;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for n in 0..100 {
        let pod = cluster.pod_when(&format!("p{n}"), |pod| node_of(pod).is_some()).await;
        *counts.entry(node_of(&pod).unwrap_or_default().to_owned()).or_default() += 1;
    }
    println!("100 pods made and bound in {:?}: {counts:?}", started.elapsed());
    assert!(counts.len() == 3 && counts.values().all(|count| (25..=40).contains(count)), "{counts:?}");
}
