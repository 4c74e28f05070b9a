//! The Docker runtime, from a pod's object to its containers and back. Skipped, with the reason, where there is no
//! usable Engine.

mod support;

use std::{path::PathBuf, process::Command, sync::Mutex};

use kube::api::LogParams;
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_node::{RuntimeChoice, StopMode};

use support::{Cluster, condition, container};

const DOCKER: RuntimeChoice = RuntimeChoice::Docker;
/// Made here from the machine's own shell and tools, as nothing may be pulled.
const IMAGE: &str = "weft.test/shell:1";

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("docker runs");
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `false`, with the reason on standard error: these tests cannot run here.
fn usable() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "capturing traffic needs root"
    } else if !Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success()) {
        "no Docker Engine answers"
    } else {
        return true;
    };
    weft_tests::record::skip("node: docker", reason);
    false
}

/// An image with a shell, some tools and the libraries that they need.
fn make_image() {
    // Two tests that made it at once would leave one without a name.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock();
    if Command::new("docker")
        .args(["image", "inspect", IMAGE])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return;
    }
    let programs = ["/bin/sh", "/bin/sleep", "/bin/cat", "/usr/bin/id", "/bin/dd"];
    let mut files: Vec<PathBuf> = programs.iter().map(PathBuf::from).collect();
    let ldd = Command::new("ldd").args(programs).output().expect("ldd runs");
    let libraries = String::from_utf8_lossy(&ldd.stdout).into_owned();
    files.extend(
        libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/') && !word.ends_with(':'))
            .map(PathBuf::from),
    );
    files.sort();
    files.dedup();
    let directory: TempDir = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("-chf").arg(&archive).args(&files).arg("/etc/passwd");
    assert!(tar.output().expect("tar runs").status.success());
    docker(&["import", archive.to_str().expect("a path"), IMAGE]);
}

fn containers_of(cluster: &Cluster) -> Vec<String> {
    let name = network_name(cluster);
    let filter = format!("label=weft.dev/cluster={}", name.trim_start_matches("weft-"));
    docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]).lines().map(str::to_owned).collect()
}

fn network_name(cluster: &Cluster) -> String {
    let directory = cluster.directory.path().join("agent");
    let runtime = tokio::runtime::Handle::current();
    let network = tokio::task::block_in_place(|| runtime.block_on(weft_node::prepare_docker(&directory)));
    network.expect("a network").name
}

fn shell(script: &str) -> Value {
    json!({"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_in_containers_of_its_own_and_leaves_nothing_behind() {
    if !usable() {
        return;
    }
    make_image();
    let cluster = Cluster::start().await;
    let agent = cluster.agent(DOCKER).await;
    let mut main = shell("echo ip $POD_IP; cat /config/key; trap 'exit 0' TERM; while :; do sleep 0.1; done");
    main["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
    main["volumeMounts"] = json!([{"name": "config", "mountPath": "/config"}]);
    main["readinessProbe"] = json!({"exec": {"command": ["/bin/cat", "/config/key"]}, "periodSeconds": 1});
    let config: k8s_openapi::api::core::v1::ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "cm"}, "data": {"key": "value\n"}
    }))
    .expect("a config map");
    let api: kube::Api<_> = kube::Api::namespaced(cluster.client.clone(), "default");
    api.create(&Default::default(), &config).await.expect("created");
    let volumes = json!([{"name": "config", "configMap": {"name": "cm"}}]);
    let spec = json!({"containers": [main], "volumes": volumes, "terminationGracePeriodSeconds": 5});
    cluster.create("p", spec).await;

    let pod = cluster.wait_ready("p").await;
    let id =
        container(&pod)["containerID"].as_str().expect("an id").trim_start_matches("docker://").to_owned();
    let limits = docker(&["inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.CpuQuota}}", &id]);
    assert_eq!(limits, "67108864 50000");
    let ip = pod["status"]["podIP"].as_str().expect("an address");
    let logs = cluster.pods().logs("p", &LogParams::default()).await.expect("logs");
    assert_eq!(logs, format!("ip {ip}\nvalue\n"));
    let node = json!(cluster.nodes().get("node-a").await.expect("the node"));
    let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().expect("a version");
    assert!(version.starts_with("docker://"), "{version}");

    for family in ["container_memory_working_set_bytes", "container_cpu_usage_seconds_total"] {
        cluster
            .wait_metric(&format!("{family}{{container=\"main\",namespace=\"default\",pod=\"p\"}} "))
            .await;
    }

    // An agent that comes back finds the same container.
    agent.stop(StopMode::Detach).await;
    let agent = cluster.agent(DOCKER).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let again = cluster.wait_ready("p").await;
    assert_eq!(container(&again)["containerID"], container(&pod)["containerID"]);
    assert_eq!(container(&again)["restartCount"], 0);

    // One that dies is started again.
    docker(&["kill", &id]);
    let restarted = cluster
        .wait("p", "restarted", |pod| {
            container(pod)["restartCount"] == 1 && condition(pod, "Ready") == Some("True")
        })
        .await;
    assert_eq!(container(&restarted)["lastState"]["terminated"]["exitCode"], 137);

    cluster.delete("p").await;
    cluster.wait_gone("p").await;
    let network = network_name(&cluster);
    agent.stop(StopMode::Drain).await;
    let bridges = docker(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(!bridges.lines().any(|bridge| bridge == network), "{bridges}");
    assert_eq!(containers_of(&cluster), Vec::<String>::new());
    docker(&["network", "rm", &network_name(&cluster)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_takes_too_much_memory_is_said_to_be_killed_for_it() {
    if !usable() {
        return;
    }
    make_image();
    let cluster = Cluster::start().await;
    let agent = cluster.agent(DOCKER).await;
    let mut main = shell("dd if=/dev/zero of=/dev/null bs=200M count=1");
    main["resources"] = json!({"limits": {"memory": "16Mi"}});
    cluster.create("greedy", json!({"containers": [main], "restartPolicy": "Never"})).await;
    let pod = cluster.wait("greedy", "failed", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(container(&pod)["state"]["terminated"]["reason"], "OOMKilled");
    cluster
        .create(
            "absent",
            json!({"containers": [{"name": "c", "image": "weft.test/none:1", "imagePullPolicy": "Never"}]}),
        )
        .await;
    let pod = cluster
        .wait("absent", "refused", |pod| container(pod)["state"]["waiting"]["reason"] == "ErrImageNeverPull")
        .await;
    assert_eq!(pod["status"]["phase"], "Pending");
    agent.stop(StopMode::Drain).await;
    assert_eq!(containers_of(&cluster), Vec::<String>::new());
    docker(&["network", "rm", &network_name(&cluster)]);
}
