//! The sidecar's place in a pod's life, and the gateway, with a scripted proxy in place of the real one.

mod support;

use std::{io::Write as _, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use weft_node::{AgentConfig, RuntimeChoice, StopMode};

use support::{Cluster, condition, shell, wait_no_processes};

/// A proxy that has an admin endpoint and nothing else, and that notes what it is asked in a file.
const PROXY: &str = r#"#!/usr/bin/env python3
import http.server, json, signal, sys, time
bootstrap = json.load(open(sys.argv[sys.argv.index("-c") + 1]))
note_file = "NOTES"
def note(text):
    with open(note_file, "a") as notes:
        notes.write(bootstrap["node"]["id"].split("~")[0] + " " + text + "\n")
def end(*_):
    note("term")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("start")
begun = time.monotonic()
active = 3
class Admin(http.server.BaseHTTPRequestHandler):
    def answer(self, status, text=""):
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_GET(self):
        global active
        if self.path == "/ready":
            ready = time.monotonic() - begun > 0.3
            if ready:
                note("ready")
            self.answer(200 if ready else 503)
        else:
            active = max(0, active - 1)
            self.answer(200, 'envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="inbound:80"} %d\n' % active)
    def do_POST(self):
        note("drain")
        self.answer(200)
    def log_message(self, *_):
        pass
address = bootstrap["admin"]["address"]["socket_address"]
class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True
Server((address["address"], address["port_value"]), Admin).serve_forever()
"#;

fn usable() -> bool {
    let python =
        Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !python {
        weft_tests::record::skip("node: sidecar", "the scripted proxy needs python3");
    }
    python
}

fn with_proxy(cluster: &Cluster, mut config: AgentConfig) -> (AgentConfig, PathBuf) {
    let notes = cluster.directory.path().join("notes");
    let proxy = cluster.directory.path().join("proxy");
    std::fs::write(&proxy, PROXY.replace("NOTES", notes.to_str().expect("a path"))).expect("written");
    std::fs::set_permissions(&proxy, std::fs::Permissions::from_mode(0o755)).expect("executable");
    config.proxy_binary = Some(proxy);
    (config, notes)
}

fn notes(path: &PathBuf) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecar_is_ready_first_drains_and_stops_last() {
    if !usable() {
        return;
    }
    let cluster = Cluster::start().await;
    let config = cluster.config(RuntimeChoice::Process, "node-a", "agent");
    let (config, path) = with_proxy(&cluster, config);
    let agent = weft_node::start(config, cluster.shutdown.child_token()).await.expect("an agent");

    let service = json!({"metadata": {"name": "api"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    let services: kube::Api<k8s_openapi::api::core::v1::Service> =
        kube::Api::namespaced(cluster.client.clone(), "default");
    let service = serde_json::from_value(service).expect("a service");
    let service = services.create(&PostParams::default(), &service).await.expect("created");
    let script = format!(
        "echo \"app start $API_SERVICE_HOST $API_SERVICE_PORT\" >> {0}; \
         trap 'echo \"app term\" >> {0}; exit 0' TERM; while :; do sleep 0.02; done",
        path.display()
    );
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": "node-a", "containers": [shell("main", &script)]},
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    cluster.pods().create(&PostParams::default(), &pod).await.expect("created");

    let pod = cluster.wait_ready("web").await;
    let address =
        pod["metadata"]["annotations"]["weft.dev/sidecar-address"].as_str().expect("announced").to_owned();
    let pod_ip = pod["status"]["podIP"].as_str().expect("an address");
    let last = |ip: &str| ip.rsplit('.').next().and_then(|last| last.parse::<u8>().ok()).expect("a number");
    assert_eq!(last(&address), last(pod_ip) + 1);
    let cluster_ip =
        service.spec.expect("a spec").cluster_ip.expect("allocated").parse().expect("an address");
    let port = weft_api::mesh::outbound_port(cluster_ip, 0);
    let app = format!("app start {address} {port}");
    cluster.wait("web", "started", |_| notes(&path).contains(&app)).await;
    let seen = notes(&path);
    assert_eq!(seen[0], "sidecar start");
    assert_eq!(seen[1], "sidecar ready");
    assert_eq!(seen.last(), Some(&app), "{seen:?}");

    cluster.delete("web").await;
    cluster.wait_gone("web").await;
    let end: Vec<String> = notes(&path).into_iter().skip(seen.len()).collect();
    assert_eq!(end, ["sidecar drain", "app term", "sidecar term"]);
    // Nobody said that the proxies know: the bound was reached, and that is told.
    let event = cluster.wait_event("StillInRotation").await;
    assert!(event.contains("0.05 s"), "{event}");
    agent.stop(StopMode::Drain).await;
    wait_no_processes(cluster.directory.path().to_str().expect("a path")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_told_to_end_when_it_is_known_that_no_proxy_uses_it_and_not_before() {
    if !usable() {
        return;
    }
    let cluster = Cluster::start().await;
    let config = cluster.config(RuntimeChoice::Process, "node-a", "agent");
    let (mut config, path) = with_proxy(&cluster, config);
    config.timing.out_of_rotation = support::PATIENCE;
    let agent = weft_node::start(config, cluster.shutdown.child_token()).await.expect("an agent");
    let note = |text: &str| {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).expect("a file");
        writeln!(file, "{text}").expect("written");
    };
    let script = format!(
        "trap 'echo \"app term\" >> {0}; exit 0' TERM; echo \"app start\" >> {0}; while :; do sleep 0.02; done",
        path.display()
    );
    // One that was told that it keeps a pod waiting, and one that says nothing, as its pod has no sidecar.
    for (name, inject) in [("web", "enabled"), ("plain", "disabled")] {
        std::fs::remove_file(&path).ok();
        let pod = json!({
            "metadata": {"name": name, "annotations": {"weft.dev/inject": inject}},
            "spec": {"nodeName": "node-a", "containers": [shell("main", &script)]},
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        cluster.pods().create(&PostParams::default(), &pod).await.expect("created");
        cluster.wait_ready(name).await;
        cluster.wait(name, "started", |_| notes(&path).iter().any(|note| note == "app start")).await;
        let condition = |status: &str| json!({"status": {"conditions": [{"type": "weft.dev/OutOfRotation", "status": status}]}});
        let say = async |status: &str| {
            let (patch, params) = (Patch::Strategic(condition(status)), PatchParams::default());
            cluster.pods().patch_status(name, &params, &patch).await.expect("patched");
        };
        cluster.delete(name).await;
        say("False").await;
        // Whoever would not wait has ended it by then.
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        note("out of rotation");
        say("True").await;
        cluster.wait_gone(name).await;
        let seen = notes(&path);
        let at = |what: &str| seen.iter().position(|note| note == what);
        assert!(at("out of rotation") < at("app term") && at("app term").is_some(), "{seen:?}");
        if inject == "enabled" {
            assert!(
                at("sidecar drain") < at("out of rotation") && at("sidecar term") > at("app term"),
                "{seen:?}"
            );
        }
    }
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_dies_takes_the_pod_out_of_service_until_it_is_back() {
    if !usable() {
        return;
    }
    let cluster = Cluster::start().await;
    let config = cluster.config(RuntimeChoice::Process, "node-a", "agent");
    let (config, path) = with_proxy(&cluster, config);
    let agent = weft_node::start(config, cluster.shutdown.child_token()).await.expect("an agent");
    let pod = json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": "node-a", "terminationGracePeriodSeconds": 1,
            "containers": [shell("main", "while :; do sleep 0.1; done")]},
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    cluster.pods().create(&PostParams::default(), &pod).await.expect("created");
    let before = cluster.wait_ready("web").await;
    let proxy = support::processes(&format!("python3 {}", cluster.directory.path().join("proxy").display()));
    assert_eq!(proxy.len(), 1);
    let kill = Command::new("kill").args(["-9", &proxy[0].to_string()]).status().expect("kill");
    assert!(kill.success());
    let reason = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "Ready").map(|c| c["reason"].clone())
    };
    cluster.wait("web", "out of service", |pod| reason(pod) == Some(json!("SidecarNotReady"))).await;
    let after = cluster.wait("web", "back", |pod| condition(pod, "Ready") == Some("True")).await;
    assert_eq!(notes(&path).iter().filter(|note| *note == "sidecar start").count(), 2);
    assert_eq!(
        support::container(&before)["containerID"],
        support::container(&after)["containerID"],
        "the application was left alone"
    );
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_outlives_the_agent_and_goes_with_the_node() {
    if !usable() {
        return;
    }
    let cluster = Cluster::start().await;
    let start = async || {
        let mut config = cluster.config(RuntimeChoice::Process, "node-a", "agent");
        config.gateway = true;
        let (config, path) = with_proxy(&cluster, config);
        (weft_node::start(config, cluster.shutdown.child_token()).await.expect("an agent"), path)
    };
    let (agent, path) = start().await;
    let admin = agent.gateway_admin().expect("a gateway");
    let node = json!(cluster.nodes().get("node-a").await.expect("the node"));
    assert_eq!(node["metadata"]["annotations"]["weft.dev/gateway-admin"], admin.to_string());
    let proxy = cluster.directory.path().join("proxy");
    let proxies = || support::processes(&format!("python3 {}", proxy.display()));
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while !notes(&path).iter().any(|note| note == "gateway start") {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", notes(&path));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    agent.stop(StopMode::Detach).await;
    assert_eq!(proxies().len(), 1);
    let (agent, path) = start().await;
    assert_eq!(agent.gateway_admin(), Some(admin));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(proxies().len(), 1, "it is not started twice: {:?}", notes(&path));
    agent.stop(StopMode::Drain).await;
    assert_eq!(proxies().len(), 0);
}
