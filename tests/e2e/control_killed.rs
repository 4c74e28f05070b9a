//! 3: `kill -9` of control under load.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use weft_tests::{
    cluster::{Cluster, Runtime},
    http::Sampler,
    kubectl::{self, Kubectl},
    measured, need, serial,
    wait::{LONG, wait_for},
    wrk,
};

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_without_control_which_then_picks_up_the_same_pods() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "control_killed";
    let kubectl = need!(test, kubectl::find());
    let wrk = need!(test, wrk::find());
    let mut cluster = Cluster::up(Runtime::Process, true).await?;
    let kubectl = Kubectl::new(&kubectl, &cluster.kubeconfig());
    let web = cluster.web()?;
    let before = pods(&kubectl).await?;
    ensure!(before.len() == 6, "3 web, 2 api, 1 client: {before:?}");

    let sampler = Sampler::start(&web, 2, Duration::from_millis(10));
    let load = wrk::start(&wrk, &format!("http://{web}/"), 16, Duration::from_secs(15))?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.kill().await?;
    println!("control is dead");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let took = cluster.start().await?;
    measured!("restart after kill -9 until all available: {:.2} s", took.as_secs_f64());
    let report = load.report().await?;
    let (failed, all, examples) = sampler.failures();
    measured!("kill -9 of control under wrk: {report}");
    measured!("sampler beside wrk: {failed} of {all} requests failed {examples:?}");
    ensure!(report.requests > 0 && report.failed() == 0, "traffic was hurt: {report}");
    ensure!(failed == 0, "traffic was hurt: {examples:?}");

    wait_for("the same pods run", LONG, || async {
        let after = pods(&kubectl).await?;
        Ok(if after == before { Ok(()) } else { Err(format!("before {before:#?}, after {after:#?}")) })
    })
    .await?;
    // It is in charge again: what is asked of it happens.
    kubectl.run(&["scale", "deployment", "web", "--replicas", "4"]).await?;
    kubectl.run(&["rollout", "status", "deployment", "web", "--timeout=60s"]).await?;
    Ok(())
}

/// Name → uid and container id: another process or another object would show.
async fn pods(kubectl: &Kubectl) -> anyhow::Result<BTreeMap<String, String>> {
    let pods = kubectl.json(&["get", "pods"]).await?;
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    Ok(items
        .iter()
        .map(|pod| {
            let container = &pod["status"]["containerStatuses"][0];
            let identity = format!(
                "uid {} container {} restarts {} ready {}",
                pod["metadata"]["uid"],
                container["containerID"],
                container["restartCount"],
                container["ready"]
            );
            (pod["metadata"]["name"].to_string(), identity)
        })
        .collect())
}
