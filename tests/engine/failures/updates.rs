//! A large service changes all the time.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weft_tests::{
    bootstrap::{Bootstrap, socket},
    control_plane::ControlPlane,
    measured,
    proxy::Proxy,
};

use super::{
    backend::{self, Backend},
    load::Load,
    route, settles,
};

const ENDPOINTS: usize = 10_000;
const REQUESTS: usize = 1_000;
const VERSIONS: usize = 6;

/// A user expects: endpoints come and go by the thousand, and neither does a request fail for it, with no retries to hide
/// that, nor do requests cost more: whoever carries them has nothing to do with an update.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_endpoints_change_under_load_and_no_request_notices() -> anyhow::Result<()> {
    let control = ControlPlane::start().await?;
    let backends = Backend::start_all(["a", "b", "c", "d"]).await?;
    // To write them is work for this process, which is not what is measured.
    let versions = (0..VERSIONS)
        .map(|number| ControlPlane::assignment("up", &version(&backends, number)))
        .collect::<Result<Vec<_>, _>>()?;
    control.set_assignment("up", versions[0].clone());
    let bootstrap = Bootstrap::default()
        .dynamic(control.resources())
        .http_routes("front", route("up", Value::Null), json!({}))
        .cluster("up", &[], control.cluster());
    let proxy = Proxy::start(bootstrap).await?;
    proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", ENDPOINTS as f64).await?;
    // Connections are made, caches are warm.
    let answers = Load::start(&proxy, "front", 200, 800)?.end().await?;
    ensure!(answers.failed() == 0, "{} of 200 failed", answers.failed());

    let before = data_threads(proxy.pid())?;
    let answers = Load::start(&proxy, "front", REQUESTS, 800)?.end().await?;
    let quiet = data_threads(proxy.pid())? - before;
    ensure!(answers.failed() == 0, "{} of {REQUESTS} failed", answers.failed());

    let before = data_threads(proxy.pid())?;
    let load = Load::start(&proxy, "front", REQUESTS, 800)?;
    let mut updates = 0;
    while load.sent_so_far() < REQUESTS - 100 {
        updates += 1;
        control.set_assignment("up", versions[updates % VERSIONS].clone());
        let count = (ENDPOINTS - updates % VERSIONS) as f64;
        proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", count).await?;
    }
    let answers = load.end().await?;
    let changing = data_threads(proxy.pid())? - before;

    ensure!(answers.failed() == 0, "{} of {REQUESTS} failed", answers.failed());
    ensure!(updates >= 2, "there were only {updates} updates");
    measured!(
        "data threads: {:.1} µs of processor time per request with {ENDPOINTS} endpoints, {:.1} µs while all of them change ({updates} updates)",
        quiet / REQUESTS as f64,
        changing / REQUESTS as f64,
    );
    // Ten thousand of anything would be felt: what is allowed is that caches are colder.
    ensure!(
        changing < 2.0 * quiet,
        "{changing} µs for {REQUESTS} requests and {updates} updates, and {quiet} µs for the requests"
    );
    settles(&proxy, 200 + 2 * REQUESTS).await?;
    proxy.finish().await
}

/// The endpoints of the `number`-th version, one less in each: two or three of four that serve, and for the rest others
/// each time.
fn version(backends: &[Backend], number: usize) -> Value {
    let real = backend::addresses(backends);
    let serving = real.iter().enumerate().filter(|(index, _)| number == 0 || *index != number % real.len());
    let mut hosts: Vec<Value> =
        serving.map(|(_, address)| json!({"endpoint": {"address": socket(*address)}})).collect();
    let missing = ENDPOINTS - number - hosts.len();
    // Nobody listens there, so that discovery must say that they take no traffic.
    hosts.extend((0..missing).map(|index| {
        let index = (index + number % 2 * ENDPOINTS) as u32;
        let address = std::net::Ipv4Addr::from(0x7f10_0000 + index);
        json!({"endpoint": {"address": socket((address, 9).into())}, "health_status": "UNHEALTHY"})
    }));
    json!([{"lb_endpoints": hosts}])
}

/// Processor time of the threads that carry requests, in microseconds.
fn data_threads(pid: u32) -> anyhow::Result<f64> {
    let mut total = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the proxy is not there")?.flatten() {
        let read = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        if read("comm").starts_with("worker-") {
            let time = read("schedstat");
            let nanoseconds = time.split_whitespace().next().context("no schedstat")?.parse::<f64>()?;
            total += nanoseconds / 1_000.0;
        }
    }
    ensure!(total > 0.0, "no thread of that name");
    Ok(total)
}
