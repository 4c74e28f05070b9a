//! 2: scaling, a rolling update and the deletion of a pod while wrk runs through a sidecar.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::task::JoinHandle;
use weft_tests::{
    cluster::{Cluster, Runtime},
    http::Sampler,
    kubectl::{self, Kubectl},
    measured, need, serial,
    wait::{LONG, wait_for},
    wrk,
};

/// How soon after it is ready a replica must see traffic. The target is 1 s; the bound leaves room for a busy machine.
const BOUND: Duration = Duration::from_secs(5);

/// Stands for the name of a pod of `web` in a command.
const A_POD: &str = "POD";

/// When each pod of `web` was first seen ready.
#[derive(Debug)]
struct ReadyTimes {
    seen: Arc<Mutex<BTreeMap<String, Instant>>>,
    task: JoinHandle<()>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_of_the_moment_gets_traffic_and_failures_are_counted() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "rollout_under_load";
    let kubectl = need!(test, kubectl::find());
    let wrk = need!(test, wrk::find());
    let cluster = Cluster::up(Runtime::Process, true).await?;
    let kubectl = Kubectl::new(&kubectl, &cluster.kubeconfig());
    let web = cluster.web()?;
    let ready = ReadyTimes::watch(cluster.client().await?);
    let started = Instant::now();
    let sampler = Sampler::start(&web, 4, Duration::from_millis(10));

    let phases: [(&str, &[&str]); 4] = [
        ("scale 3 to 6", &["scale", "deployment", "web", "--replicas", "6"]),
        ("scale 6 to 3", &["scale", "deployment", "web", "--replicas", "3"]),
        ("rolling update", &["set", "env", "deployment", "web", "GREETING=hello"]),
        ("delete a pod", &["delete", "pod", "--wait=false", A_POD]),
    ];
    for (name, command) in phases {
        let load = wrk::start(&wrk, &format!("http://{web}/"), 16, Duration::from_secs(12))?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let pod = first_pod(&kubectl).await?;
        let command: Vec<&str> =
            command.iter().map(|word| if *word == A_POD { pod.as_str() } else { word }).collect();
        kubectl.run(&command).await?;
        kubectl.run(&["rollout", "status", "deployment", "web", "--timeout=60s"]).await?;
        settled(&kubectl).await?;
        let report = load.report().await?;
        measured!("{name} under wrk: {report}");
        ensure!(report.requests > 0, "{name}: no traffic at all");
    }

    let (failed, all, examples) = sampler.failures();
    measured!("sampler beside wrk: {failed} of {all} requests failed {examples:?}");
    let seen = ready.seen();
    ensure!(seen.len() >= 10, "3 at first, 3 by scaling, 3 by the update, 1 for the deleted one: {seen:?}");
    for (pod, ready_at) in seen {
        // Traffic that came before our watch told of the readiness counts as no delay.
        let first = sampler.first_from(&pod, started).with_context(|| format!("{pod} never got traffic"))?;
        let delay = first.saturating_duration_since(ready_at);
        measured!("{pod} got traffic {} ms after it was seen ready", delay.as_millis());
        ensure!(delay < BOUND, "{pod} waited {delay:?} for traffic");
    }
    Ok(())
}

async fn first_pod(kubectl: &Kubectl) -> anyhow::Result<String> {
    kubectl.run(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]).await
}

/// Waits until no pod of `web` is on its way out.
async fn settled(kubectl: &Kubectl) -> anyhow::Result<()> {
    wait_for("pods that leave are gone", LONG, || async {
        let pods = kubectl.json(&["get", "pods", "-l", "app=web"]).await?;
        let leaving = pods["items"].as_array().map_or(0, |items| {
            items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string()).count()
        });
        Ok(if leaving == 0 { Ok(()) } else { Err(format!("{leaving} are leaving")) })
    })
    .await
}

// === impl ReadyTimes ===

impl ReadyTimes {
    fn watch(client: kube::Client) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let into = seen.clone();
        let task = tokio::spawn(async move {
            let pods: Api<Pod> = Api::default_namespaced(client);
            let events = watcher(pods, watcher::Config::default().labels("app=web"))
                .default_backoff()
                .applied_objects();
            let noted = events.try_for_each(|pod| {
                if is_ready(&pod) {
                    let mut seen = into.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    seen.entry(pod.name_any()).or_insert_with(Instant::now);
                }
                std::future::ready(Ok(()))
            });
            if let Err(error) = noted.await {
                println!("the watch of the pods ended: {error}");
            }
        });
        Self { seen, task }
    }

    fn seen(&self) -> BTreeMap<String, Instant> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Drop for ReadyTimes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "Ready" && it.status == "True"))
}
