//! Mixed load for a while, and afterwards everything is as it was.
//!
//! HTTP/1, HTTP/2 and TCP at the same time, by clients that behave and clients that do not, while servers are restarted and
//! endpoints come and go. `WEFT_SOAK_SECONDS` says for how long: 20 as a smoke test, 600 by hand for the real thing, then
//! best with a release build:
//! `cargo build --release -p weft-proxy && WEFT_SOAK_SECONDS=600 cargo test --release -p weft-tests --test engine -- soak`.

mod clients;

use std::{
    env,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::task::JoinSet;
use weft_tests::{
    bootstrap::{Bootstrap, http2_upstream},
    control_plane::ControlPlane,
    measured,
    proxy::Proxy,
    upstream::Upstream,
};

use self::clients::{Counts, Kind, Target};

/// Gauges that are zero when nothing goes on, and counters that are then equal.
const ZERO: &[&str] = &[
    "envoy_http_downstream_cx_active",
    "envoy_http_downstream_rq_active",
    "envoy_tcp_downstream_cx_active",
    "envoy_listener_downstream_cx_active",
    "envoy_cluster_upstream_rq_active",
    "envoy_cluster_upstream_cx_active",
];
const EQUAL: &[(&str, &str)] = &[
    ("envoy_http_downstream_rq_total", "envoy_http_downstream_rq_completed"),
    ("envoy_http_downstream_cx_total", "envoy_http_downstream_cx_destroy"),
    ("envoy_cluster_upstream_rq_total", "envoy_cluster_upstream_rq_completed"),
    ("envoy_cluster_upstream_cx_total", "envoy_cluster_upstream_cx_destroy"),
];
/// Clients of each kind at a time.
const EACH: usize = 2;
/// How much more memory than after the warm-up may be resident: freed memory that the allocator keeps in pieces.
const GROWTH_KB: u64 = 16 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_mixed_load_everything_is_as_it_was() -> anyhow::Result<()> {
    let seconds =
        env::var("WEFT_SOAK_SECONDS").ok().map(|text| text.parse::<u64>()).transpose()?.unwrap_or(20);
    let (warm_up, rest) = (Duration::from_secs(seconds / 4), Duration::from_secs(seconds - seconds / 4));
    let control = ControlPlane::start().await?;
    let steady = Upstream::start().await?;
    let moving = Upstream::start().await?.address;
    control.set("moving", &[steady.address, moving])?;
    let proxy = Proxy::start(bootstrap(&control, steady.address)).await?;

    let before = run(&proxy, &control, steady.address, moving, warm_up).await?;
    let (memory, descriptors) = quiet(&proxy).await?;
    measured!(
        "soak, {} s of warm-up: {before}; then {memory} KB, {descriptors} descriptors",
        warm_up.as_secs()
    );
    let counts = run(&proxy, &control, steady.address, moving, rest).await?;
    let (memory_after, descriptors_after) = quiet(&proxy).await?;
    measured!(
        "soak, {} s: {counts}; then {memory_after} KB, {descriptors_after} descriptors",
        rest.as_secs()
    );

    ensure!(counts.wrong() == 0, "answers that were complete and not what was asked for: {counts}");
    ensure!(counts.good() > 9 * counts.failed(), "too many failures for the few restarts: {counts}");
    ensure!(descriptors_after <= descriptors + 2, "{descriptors} descriptors became {descriptors_after}");
    ensure!(memory_after <= memory + GROWTH_KB, "{memory} KB resident became {memory_after} KB");
    proxy.finish().await
}

fn bootstrap(control: &ControlPlane, steady: SocketAddr) -> Bootstrap {
    // Short, so that the end of the test sees pools empty themselves.
    let options = |http2: bool| {
        let mut options = http2_upstream(json!({}));
        let fields = &mut options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
        fields["common_http_protocol_options"] = json!({"idle_timeout": "2s"});
        if !http2 {
            fields["explicit_http_config"] = json!({"http_protocol_options": {}});
        }
        options
    };
    let retry = json!({"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2});
    let routes = |cluster: &str| json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "30s", "retry_policy": retry}}]);
    let mut moving = control.cluster();
    moving["typed_extension_protocol_options"] = options(false);
    Bootstrap::default()
        .dynamic(control.resources())
        .http_routes("http1", routes("moving"), json!({}))
        .http_routes("http2", routes("steady2"), json!({}))
        .tcp("relay", "steady")
        .cluster("moving", &[], moving)
        .cluster("steady", &[steady], json!({}))
        .cluster("steady2", &[steady], json!({"typed_extension_protocol_options": options(true)}))
}

/// Load from all kinds of client for `length`, while one server is restarted and leaves the list now and then.
async fn run(
    proxy: &Proxy,
    control: &ControlPlane,
    steady: SocketAddr,
    moving: SocketAddr,
    length: Duration,
) -> anyhow::Result<Arc<Counts>> {
    let counts = Arc::new(Counts::default());
    let target = Target { http1: proxy.at("http1")?, http2: proxy.at("http2")?, relay: proxy.at("relay")? };
    let end = Instant::now() + length;
    let mut tasks = JoinSet::new();
    for kind in Kind::ALL {
        for _ in 0..EACH {
            tasks.spawn(clients::repeat(*kind, target, end, counts.clone()));
        }
    }
    let mut peak = 0;
    while Instant::now() < end {
        let server = Upstream::start_at(moving).await?;
        control.set("moving", &[steady, moving])?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        // First it leaves the list, as it should be; every other time it just dies.
        if counts.good() % 2 == 0 {
            control.set("moving", &[steady])?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        drop(server);
        tokio::time::sleep(Duration::from_millis(300)).await;
        peak = peak.max(proxy.resident_kb()?);
    }
    measured!("soak: at most {peak} KB resident under load");
    while let Some(ended) = tasks.join_next().await {
        ended.context("a client panicked")?;
    }
    Ok(counts)
}

/// Waits until nothing goes on in the proxy, and checks its accounts; gives resident memory and open descriptors.
async fn quiet(proxy: &Proxy) -> anyhow::Result<(u64, usize)> {
    for gauge in ZERO {
        proxy.metric_becomes(gauge, "", 0.0).await?;
    }
    for (started, completed) in EQUAL {
        let (started_value, completed_value) =
            (proxy.metric(started, "").await?, proxy.metric(completed, "").await?);
        ensure!(
            (started_value - completed_value).abs() < 0.5,
            "{started} {started_value}, {completed} {completed_value}"
        );
    }
    Ok((proxy.resident_kb()?, proxy.descriptors()?))
}
