//! A real API server in this process, agents that talk to it, and words for what tests wait for.

#![allow(dead_code, reason = "each test binary uses its own part of the support")]

use std::{path::Path, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_apiserver::ApiServer;
use weft_node::{AdsAddress, Agent, AgentConfig, NodeTls, RuntimeChoice, Timing};
use weft_store::{EmbeddedStore, Options};

/// An API server with its files.
pub(crate) struct Cluster {
    pub(crate) directory: TempDir,
    pub(crate) server: ApiServer,
    pub(crate) client: kube::Client,
    pub(crate) shutdown: CancellationToken,
}

/// How long anything may take that should take milliseconds, on a machine that builds something else meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

impl Cluster {
    pub(crate) async fn start() -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let directory = tempfile::tempdir().expect("a directory");
        let store =
            EmbeddedStore::open(&directory.path().join("store"), Options::default()).expect("a store");
        let mut config = weft_apiserver::Config::new(directory.path().join("api"));
        config.listen = ([127, 0, 0, 1], 0).into();
        let shutdown = CancellationToken::new();
        let server =
            weft_apiserver::start(config, Arc::new(store), shutdown.clone()).await.expect("an API server");
        let client = server.client("test", &["system:masters"]);
        Self { directory, server, client, shutdown }
    }

    pub(crate) fn config(&self, runtime: RuntimeChoice, node: &str, directory: &str) -> AgentConfig {
        let pki = self.server.pki();
        let (cert_pem, key_pem) = pki.issue_server(&["127.0.0.1", "localhost"]).expect("a certificate");
        let tls = NodeTls { cert_pem, key_pem, client_ca_pem: pki.ca_pem().to_owned() };
        let ads = AdsAddress { host: "127.0.0.1".into(), port: 1 };
        let client = self.server.client(&format!("system:node:{node}"), &["system:nodes"]);
        let shim = env!("CARGO_BIN_EXE_weft-shim");
        let mut config =
            AgentConfig::new(node, client, self.directory.path().join(directory), ads, tls, shim);
        config.runtime = runtime;
        // Pods of these tests have no sidecar, as no mesh control runs; what they test is the agent.
        config.gateway = false;
        let timing = Timing { stop_grace: Duration::from_secs(5), ..Timing::default() };
        config.timing = Timing { out_of_rotation: Duration::from_millis(50), ..timing };
        config
    }

    pub(crate) async fn agent(&self, runtime: RuntimeChoice) -> Agent {
        weft_node::start(self.config(runtime, "node-a", "agent"), self.shutdown.child_token())
            .await
            .expect("an agent")
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Creates a pod that is bound to the node already, as no scheduler runs.
    pub(crate) async fn create(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("node-a");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "annotations": {"weft.dev/inject": "disabled"}},
            "spec": spec,
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("created")
    }

    /// Waits until the pod's object satisfies `condition`.
    pub(crate) async fn wait(&self, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pod = self.pods().get_opt(name).await.expect("an answer");
            let pod = json!(pod);
            if condition(&pod) {
                return pod;
            }
            assert!(Instant::now() < deadline, "{name} is not {what}: {pod:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn wait_ready(&self, name: &str) -> Value {
        self.wait(name, "ready", |pod| condition(pod, "Ready") == Some("True")).await
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.expect("deleted");
    }

    pub(crate) async fn wait_gone(&self, name: &str) {
        self.wait(name, "gone", Value::is_null).await;
    }

    /// Waits until the node's resource metrics have a line that begins so.
    pub(crate) async fn wait_metric(&self, start: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = http::Request::get("/api/v1/nodes/node-a/proxy/metrics/resource").body(Vec::new());
            let text = self.client.request_text(request.expect("a request")).await.expect("metrics");
            if text.lines().any(|line| line.starts_with(start)) {
                return;
            }
            assert!(Instant::now() < deadline, "no {start} in\n{text}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until an event with this reason is there; its message.
    pub(crate) async fn wait_event(&self, reason: &str) -> String {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list = events.list(&ListParams::default()).await.expect("events");
            if let Some(event) = list.items.iter().find(|event| event.reason.as_deref() == Some(reason)) {
                return event.message.clone().unwrap_or_default();
            }
            let seen: Vec<_> = list.items.iter().map(|event| event.reason.clone()).collect();
            assert!(Instant::now() < deadline, "no event {reason}, only {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The status of one of a pod's conditions.
pub(crate) fn condition<'a>(pod: &'a Value, type_: &str) -> Option<&'a str> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == type_)?["status"].as_str()
}

/// The first container's status.
pub(crate) fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// A container that runs a shell script of this machine.
pub(crate) fn shell(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "host", "command": ["/bin/sh", "-c", script]})
}

/// Processes whose command line contains `needle`.
pub(crate) fn processes(needle: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("a process table");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(needle) && *pid != std::process::id()
    })
    .collect()
}

/// Waits until no process has `needle` in its command line.
pub(crate) async fn wait_no_processes(needle: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !processes(needle).is_empty() {
        assert!(Instant::now() < deadline, "processes are left: {:?}", processes(needle));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A text that no other process has in its command line.
pub(crate) fn marker(directory: &Path) -> String {
    let name = directory.file_name().and_then(|name| name.to_str()).expect("a name");
    format!("marker{}", name.replace('.', "").to_lowercase())
}
