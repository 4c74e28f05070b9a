//! 7: the demo as real containers, and transparent capture of applications that know nothing.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use weft_tests::{
    cluster::{Cluster, Runtime},
    docker, http,
    kubectl::{self, Kubectl},
    measured, need, process, serial,
    wait::{LONG, wait_for},
};

const IMAGE: &str = "weft-test/busybox";

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_as_containers_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "docker: the demo";
    need!(test, docker::find().await);
    let kubectl = need!(test, kubectl::find());
    let mut cluster = Cluster::new(Runtime::Docker, true)?;
    let took = cluster.start().await?;
    measured!("weft up --demo (docker) from nothing to all available: {:.2} s", took.as_secs_f64());
    ensure!(took < LONG, "{took:?}");
    let (status, body) = http::get(&format!("http://{}/", cluster.web()?)).await?;
    ensure!(
        status == 200 && body.contains("good day from web-") && body.contains("api-"),
        "{status}: {body}"
    );

    let kubectl = Kubectl::new(&kubectl, &cluster.kubeconfig());
    let pods = kubectl.json(&["get", "pods", "-l", "app=web"]).await?;
    let id = pods["items"][0]["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .context("a container id")?;
    let id = id.strip_prefix("docker://").with_context(|| format!("a container of Docker's: {id}"))?;
    let running = docker::run(&["inspect", "--format", "{{.State.Running}}", id]).await?;
    ensure!(running.trim() == "true", "Docker runs it: {running}");

    cluster.kill().await?;
    let took = cluster.start().await?;
    measured!("restart (docker) after kill -9 until all available: {:.2} s", took.as_secs_f64());
    let again = kubectl.json(&["get", "pods", "-l", "app=web"]).await?;
    let ids = |pods: &serde_json::Value| -> BTreeSet<String> {
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|pod| pod["status"]["containerStatuses"][0]["containerID"].to_string()).collect()
    };
    ensure!(ids(&again) == ids(&pods), "the same containers: {:?} {:?}", ids(&pods), ids(&again));

    cluster.stop().await?;
    let left = cluster.leftovers().await?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_knows_nothing_is_captured() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "docker: capture";
    need!(test, docker::find().await);
    let kubectl = need!(test, kubectl::find());
    let busybox = need!(test, process::find("busybox", "busybox-static"));
    let curl = need!(test, process::find("curl", "curl"));
    build_image(&busybox, &curl).await?;
    let mut cluster = Cluster::up(Runtime::Docker, false).await?;
    let kubectl = Kubectl::new(&kubectl, &cluster.kubeconfig());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/docker-capture.yaml");
    kubectl.run(&["apply", "-f", manifest.to_str().context("the path is text")?]).await?;
    kubectl.run(&["rollout", "status", "deployment", "plain", "--timeout=60s"]).await?;
    kubectl.run(&["wait", "--for=condition=Ready", "pod/caller", "--timeout=60s"]).await?;

    // Both replicas answer, by the name alone.
    let names = wait_for("both replicas answer", LONG, || async {
        let log = kubectl.run(&["logs", "caller", "--tail=50"]).await?;
        let names: BTreeSet<String> =
            log.lines().filter(|it| it.starts_with("plain-")).map(str::to_owned).collect();
        Ok(if names.len() == 2 { Ok(names) } else { Err(log) })
    })
    .await?;
    println!("captured calls were answered by {names:?}");

    // And every request went through two sidecars: the caller's, and that of the replica.
    let ip = kubectl.run(&["get", "pod", "caller", "-o", "jsonpath={.status.podIP}"]).await?;
    let outbound = counter(&ip, "plain.default:8000").await?;
    ensure!(outbound > 0.0, "the caller's sidecar counted nothing");
    measured!("the caller's sidecar counted {outbound} requests to plain");
    let replicas =
        kubectl.run(&["get", "pods", "-l", "app=plain", "-o", "jsonpath={.items[*].status.podIP}"]).await?;
    for ip in replicas.split_whitespace() {
        let inbound = counter(ip, "inbound").await?;
        ensure!(inbound > 0.0, "the sidecar of {ip} counted nothing");
        measured!("the sidecar of {ip} counted {inbound} inbound requests");
    }
    cluster.stop().await?;
    let left = cluster.leftovers().await?;
    docker::run(&["rmi", IMAGE]).await?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// An image of busybox with the names of its tools, and of curl with its libraries: a static busybox cannot resolve names
/// without them.
async fn build_image(busybox: &Path, curl: &Path) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("weft-test-image-").tempdir()?;
    let bin = directory.path().join("bin");
    std::fs::create_dir(&bin)?;
    std::fs::copy(busybox, bin.join("busybox"))?;
    for name in ["sh", "httpd", "sleep", "mkdir", "hostname"] {
        std::os::unix::fs::symlink("busybox", bin.join(name))?;
    }
    std::fs::copy(curl, bin.join("curl"))?;
    let linked = process::run(Command::new("ldd").arg(curl)).await?;
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = directory.path().join(library.trim_start_matches('/'));
        std::fs::create_dir_all(copy.parent().context("a library is in a directory")?)?;
        std::fs::copy(library, copy)?;
    }
    let script = format!("tar -C {} -c . | docker import - {IMAGE}", directory.path().display());
    process::run(Command::new("bash").args(["-c", &format!("set -o pipefail; {script}")])).await?;
    Ok(())
}

/// Requests that the sidecar of the pod at `ip` sent to clusters whose name starts with `cluster`.
async fn counter(ip: &str, cluster: &str) -> anyhow::Result<f64> {
    let (status, text) = http::get(&format!("http://{ip}:15000/stats/prometheus")).await?;
    ensure!(status == 200, "the admin endpoint of {ip} answers {status}");
    let wanted = format!("envoy_cluster_name=\"{cluster}");
    let samples = text
        .lines()
        .filter(|line| line.starts_with("envoy_cluster_upstream_rq_total{") && line.contains(&wanted));
    samples.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>().context("a number")).sum()
}
