//! 1: `weft up --demo` from nothing to all available; what it prints works; it comes back, and leaves nothing behind.

use std::time::Duration;

use anyhow::ensure;
use tokio::process::Command;
use weft_tests::{
    cluster::{Cluster, Runtime},
    http, kubectl, measured, need, process, serial,
    wait::{self, LONG},
    wrk,
};

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_all_available_as_processes() -> anyhow::Result<()> {
    let _serial = serial().await;
    let mut cluster = Cluster::new(Runtime::Process, true)?;
    let took = cluster.start().await?;
    measured!("weft up --demo (process) from nothing to all available: {:.2} s", took.as_secs_f64());
    ensure!(took < LONG, "{took:?}");
    let (status, body) = http::get(&format!("http://{}/", cluster.web()?)).await?;
    ensure!(
        status == 200 && body.contains("good day from web-") && body.contains("api-"),
        "{status}: {body}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_printed_line_works_as_printed() -> anyhow::Result<()> {
    let _serial = serial().await;
    need!("every_printed_line_works_as_printed", kubectl::find());
    need!("every_printed_line_works_as_printed", wrk::find());
    need!("every_printed_line_works_as_printed", process::find("curl", "curl"));
    let cluster = Cluster::up(Runtime::Process, true).await?;
    let exports = cluster.lines_to_type("export");
    ensure!(exports.len() == 1, "one line sets KUBECONFIG: {exports:?}");
    let lines: Vec<String> =
        ["curl", "wrk", "kubectl"].iter().flat_map(|program| cluster.lines_to_type(program)).collect();
    for program in ["curl", "wrk", "kubectl"] {
        ensure!(lines.iter().any(|line| line.starts_with(program)), "no {program} line in {lines:?}");
    }
    for line in lines {
        // What follows a log never ends by itself; without -f it is the same request.
        let line = line.replace(" -f ", " ");
        let script = format!("set -e; {}; {line}", exports[0]);
        let output = process::run(Command::new("bash").args(["-c", &script])).await?;
        ensure!(!output.trim().is_empty(), "{line}: printed nothing");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_finds_everything_and_an_orderly_end_leaves_nothing() -> anyhow::Result<()> {
    let _serial = serial().await;
    let kubectl = need!("a_second_start_finds_everything", kubectl::find());
    let mut cluster = Cluster::up(Runtime::Process, true).await?;
    let kubectl = kubectl::Kubectl::new(&kubectl, &cluster.kubeconfig());
    kubectl.run(&["create", "configmap", "kept", "--from-literal=a=b"]).await?;
    kubectl.run(&["scale", "deployment", "web", "--replicas", "4"]).await?;
    let uid = |object: &serde_json::Value| object["metadata"]["uid"].as_str().map(str::to_owned);
    let web = uid(&kubectl.json(&["get", "deployment", "web"]).await?);

    cluster.stop().await?;
    let left = cluster.leftovers().await?;
    ensure!(left.is_empty(), "left behind after Ctrl-C: {left:#?}");

    let took = cluster.start().await?;
    measured!("second weft up --demo (process) until all available: {:.2} s", took.as_secs_f64());
    let found = cluster.status("found")?;
    ensure!(found.contains("3 deployments"), "it says what it found: {found:?}");
    ensure!(
        uid(&kubectl.json(&["get", "deployment", "web"]).await?) == web,
        "the same Deployment, not a new one"
    );
    ensure!(kubectl.json(&["get", "configmap", "kept"]).await?["data"]["a"] == "b", "the ConfigMap is there");
    let replicas = kubectl.json(&["get", "deployment", "web"]).await?["spec"]["replicas"].clone();
    ensure!(replicas == 4, "--demo does not undo what the user changed: {replicas}");
    answers(&cluster).await?;

    cluster.stop().await?;
    let left = cluster.leftovers().await?;
    ensure!(left.is_empty(), "left behind after the second end: {left:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_after_kill_9_leaves_nothing_either() -> anyhow::Result<()> {
    let _serial = serial().await;
    let mut cluster = Cluster::up(Runtime::Process, true).await?;
    cluster.kill().await?;
    ensure!(!cluster.leftovers().await?.is_empty(), "workloads outlive control");
    cluster.start().await?;
    answers(&cluster).await?;
    cluster.stop().await?;
    let left = cluster.leftovers().await?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

async fn answers(cluster: &Cluster) -> anyhow::Result<()> {
    let url = format!("http://{}/", cluster.web()?);
    wait::wait_for("web answers", Duration::from_secs(10), || async {
        Ok(match http::get(&url).await {
            Ok((200, _)) => Ok(()),
            Ok((status, body)) => Err(format!("{status}: {body}")),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await
}
