//! xDS, item 4: control is killed and started again under load and churn; nobody notices but the proxies, which return.
//!
//! `WEFT_RESTARTS` says how often: 4 times as a smoke test, 20 by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use weft_tests::{
    cluster::{Cluster, Runtime},
    http::{self, Load},
    kubectl::{self, Kubectl},
    measured, need, process,
    proxy::Proxy,
    serial,
    wait::{LONG, wait_for},
    xds_client::{Control, Envoy, Protocol, find_envoy, gateway, own_address},
};

use crate::echo;

const CALLERS: usize = 4;
const PERIOD: Duration = Duration::from_millis(10);
/// How soon after its return control must have every proxy in step.
const IN_STEP: Duration = Duration::from_secs(5);
/// What control logs of a proxy that is there.
const OPENED: &str = "stream opened";
const CLOSED: &str = "stream closed";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_all_proxies_return_when_control_is_killed_again_and_again() -> anyhow::Result<()>
{
    let _serial = serial().await;
    let test = "control_restarts";
    let envoy = need!(test, find_envoy());
    need!(test, kubectl::find());
    let rounds: usize = env::var("WEFT_RESTARTS").ok().map(|text| text.parse()).transpose()?.unwrap_or(4);
    let mut cluster = Cluster::new(Runtime::Process, false)?.with_log("warn,weft_xds=info");
    cluster.start().await?;
    let kubectl = cluster.kubectl()?;
    echo::deploy(&kubectl).await?;

    let control = Control::of(&cluster)?;
    let (delta, sotw, ours) = (own_address(3), own_address(4), own_address(5));
    let envoy_delta = Envoy::start(&envoy, &gateway("envoy-delta", delta, &control, Protocol::Delta)).await?;
    let envoy_sotw = Envoy::start(&envoy, &gateway("envoy-sotw", sotw, &control, Protocol::Sotw)).await?;
    let proxy = Proxy::start(gateway("weft-proxy", ours, &control, Protocol::Delta)).await?;
    let mut loads = Vec::new();
    for (name, address) in [("Envoy, delta", delta), ("Envoy, SotW", sotw), ("weft-proxy", ours)] {
        loads.push((name, Load::start(&echo::at(&kubectl, address).await?, CALLERS, PERIOD)));
    }

    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        // Killed in the middle of a change, a little later in each round, and away for longer and longer.
        churn(&kubectl, if round % 2 == 0 { 4 } else { 12 }).await?;
        tokio::time::sleep(Duration::from_millis(150 * (round as u64 % 7))).await;
        let before = there(&cluster);
        ensure!(before.len() >= 4, "a gateway, a sidecar at least and the three of this test: {before:?}");
        cluster.kill().await?;
        tokio::time::sleep(Duration::from_millis(500 * (1 + round as u64 % 6))).await;
        cluster.start().await?;
        let back = Instant::now();
        let returned = return_of(&cluster, &before).await?;
        in_step(&cluster).await?;
        let took = back.elapsed();
        slowest = slowest.max(took);
        let (first, spread, crowd) = spread(&returned)?;
        measured!(
            "restart {round}: {} of {} proxies came back (the others ended), the first {} ms before all else was \
             ready, spread over {} ms, at most {crowd} in 100 ms; all in step {} ms after control was ready",
            returned.len(),
            before.len(),
            back.saturating_duration_since(first).as_millis(),
            spread.as_millis(),
            took.as_millis()
        );
        ensure!(took < IN_STEP, "the proxies were in step only after {took:?}");
        for (name, load) in &loads {
            let tally = load.tally();
            ensure!(tally.failed() == 0, "restart {round}, {name}: {tally}");
        }
    }
    // In charge again, and nothing was forgotten.
    echo::scale(&kubectl, 10).await?;
    let there = echo::settled(&kubectl, 10).await?;
    for (name, load) in &loads {
        load.forget_pods();
        wait_for(&format!("{name} calls all replicas"), LONG, || async {
            let seen = load.pods();
            Ok(if seen == there { Ok(()) } else { Err(format!("{seen:?}, not {there:?}")) })
        })
        .await?;
        let tally = load.tally();
        measured!("{rounds} times kill -9 of control, {name}: {tally}");
        ensure!(tally.requests() > 0 && tally.failed() == 0, "{name}: {tally}");
    }
    measured!("all proxies were in step at most {} ms after control was ready", slowest.as_millis());
    drop(loads);
    envoy_delta.finish()?;
    envoy_sotw.finish()?;
    proxy.finish().await
}

/// Another number of replicas, and one of the pods of before deleted.
async fn churn(kubectl: &Kubectl, replicas: usize) -> anyhow::Result<()> {
    let name = "jsonpath={.items[0].metadata.name}";
    let pod = kubectl.run(&["get", "pods", "-l", "app=echo", "-o", name]).await?;
    kubectl.run(&["delete", "pod", "--wait=false", "--ignore-not-found", &pod]).await?;
    echo::scale(kubectl, replicas).await
}

/// The proxies that have a stream, and since when, by what control logged.
fn there(cluster: &Cluster) -> BTreeMap<String, Instant> {
    let mut all = BTreeMap::new();
    for (at, line) in cluster.lines_with("stream ") {
        let Some(proxy) = line.split("proxy=\"").nth(1).and_then(|rest| rest.split('"').next()) else {
            continue;
        };
        if line.contains(OPENED) {
            all.entry(proxy.to_owned()).or_insert(at);
        } else if line.contains(CLOSED) {
            all.remove(proxy);
        }
    }
    all
}

/// Waits until each of those that were there before is back, or does not run any more; gives when each came.
async fn return_of(
    cluster: &Cluster,
    before: &BTreeMap<String, Instant>,
) -> anyhow::Result<BTreeMap<String, Instant>> {
    wait_for("all proxies are back", IN_STEP, || async {
        let now = there(cluster);
        let missing: BTreeSet<&String> = before.keys().filter(|proxy| !now.contains_key(*proxy)).collect();
        let run = running(cluster);
        let late: Vec<_> = missing.into_iter().filter(|proxy| run.contains(*proxy)).collect();
        Ok(if late.is_empty() {
            Ok(before.keys().filter_map(|proxy| Some((proxy.clone(), *now.get(proxy)?))).collect())
        } else {
            Err(format!("not yet {late:?}"))
        })
    })
    .await
}

/// The proxies of the cluster whose processes are there, by their bootstraps.
fn running(cluster: &Cluster) -> BTreeSet<String> {
    let processes = process::mentioning(cluster.data_dir());
    let files = processes
        .iter()
        .filter_map(|(_, line)| line.split_whitespace().find(|word| word.ends_with("/bootstrap.json")));
    let id = |file: &str| {
        let bootstrap: Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
        bootstrap["node"]["id"].as_str().map(str::to_owned)
    };
    files.filter_map(id).collect()
}

/// Waits until every proxy that is connected has what it is to have.
async fn in_step(cluster: &Cluster) -> anyhow::Result<()> {
    let metrics = cluster.status("metrics")?;
    wait_for("all proxies are in step", IN_STEP, || async {
        let (status, text) = http::get(&metrics).await?;
        ensure!(status == 200, "metrics: status {status}: {text}");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default()
        };
        let (all, synced) = (value("weft_xds_proxies"), value("weft_xds_proxies_by_state{state=\"synced\"}"));
        Ok(if all > 0.0 && all == synced { Ok(()) } else { Err(format!("{synced} of {all}")) })
    })
    .await
}

/// When the first came, how long after it the last did, and how many came within a tenth of a second at most.
fn spread(returned: &BTreeMap<String, Instant>) -> anyhow::Result<(Instant, Duration, usize)> {
    let mut times: Vec<Instant> = returned.values().copied().collect();
    times.sort();
    let (first, last) = times.first().zip(times.last()).context("no proxy came back")?;
    let window = Duration::from_millis(100);
    let crowd = |from: &Instant| times.iter().filter(|at| *at >= from && **at < *from + window).count();
    Ok((*first, *last - *first, times.iter().map(crowd).max().unwrap_or_default()))
}
