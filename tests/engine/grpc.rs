//! gRPC with Python's grpcio as client and server: the assertions are in `tests/python/grpc_client.py`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use weft_tests::{
    bootstrap::Bootstrap,
    measured, need,
    proxy::Proxy,
    python::{self, Script},
};

/// A proxy in front of servers, all speaking HTTP/2 without TLS.
struct Setup {
    python: PathBuf,
    proxy: Proxy,
    servers: Vec<Script>,
    addresses: Vec<SocketAddr>,
}

/// How much the proxy's memory may grow while 100 MB wait for a reader.
const GROWTH_KB: u64 = 30 * 1024;

#[tokio::test]
async fn calls_of_every_kind_are_as_without_a_proxy() -> anyhow::Result<()> {
    let python = need!("grpc: calls", python::find("grpc").await);
    let setup = Setup::start(python, 1, &[]).await?;
    let printed = setup.client("all")?.finish().await?;
    println!("{printed}");
    setup.proxy.metric_becomes("envoy_http_downstream_rq_active", "front", 0.0).await?;
    setup.proxy.metric_becomes("envoy_cluster_upstream_rq_active", "up", 0.0).await?;
    setup.proxy.finish().await
}

#[tokio::test]
async fn a_server_that_dies_in_mid_stream_is_unavailable() -> anyhow::Result<()> {
    let python = need!("grpc: crash", python::find("grpc").await);
    let setup = Setup::start(python, 1, &[]).await?;
    setup.client("unavailable")?.finish().await?;
    setup.proxy.finish().await
}

#[tokio::test]
async fn a_hundred_megabytes_wait_for_a_slow_client_in_bounded_memory() -> anyhow::Result<()> {
    let python = need!("grpc: slow client", python::find("grpc").await);
    bounded(python, "slow_reader").await
}

#[tokio::test]
async fn a_hundred_megabytes_wait_for_a_slow_server_in_bounded_memory() -> anyhow::Result<()> {
    let python = need!("grpc: slow server", python::find("grpc").await);
    bounded(python, "slow_server").await
}

#[tokio::test]
async fn calls_of_one_connection_are_spread_over_all_servers() -> anyhow::Result<()> {
    let python = need!("grpc: spread", python::find("grpc").await);
    let setup = Setup::start(python, 3, &[]).await?;
    let printed = setup.client("spread")?.finish().await?;
    let counts: Vec<u32> =
        printed.split_whitespace().filter_map(|word| word.split_once('=')?.1.parse().ok()).collect();
    ensure!(counts.len() == 3 && counts.iter().all(|count| *count >= 100), "not spread: {printed}");
    let connections = setup.proxy.metric("envoy_http_downstream_cx_total", "front").await?;
    ensure!(connections == 1.0, "it took {connections} connections");
    setup.proxy.finish().await
}

#[tokio::test]
async fn a_graceful_drain_moves_clients_without_a_failed_call() -> anyhow::Result<()> {
    let python = need!("grpc: drain", python::find("grpc").await);
    let setup = Setup::start(python, 1, &["--drain-time-s", "60", "--drain-strategy", "immediate"]).await?;
    let mut client = setup.client("go_on_until_told")?;
    ensure!(client.line().await? == "calling");
    setup.proxy.metric_becomes("envoy_http_downstream_cx_total", "front", 2.0).await?;
    let (status, _) = setup.proxy.admin("POST", "/drain_listeners?graceful").await?;
    ensure!(status == 200, "{status}");
    // Told to go, the client comes back on a new connection; the stream stays where it is.
    weft_tests::wait::wait_for("the client connects anew", weft_tests::wait::LONG, || async {
        let connections = setup.proxy.metric("envoy_http_downstream_cx_total", "front").await?;
        Ok(if connections > 2.0 { Ok(()) } else { Err(format!("{connections} connections")) })
    })
    .await?;
    client.tell("stop").await?;
    measured!("gRPC through a graceful drain, none failed: {}", client.finish().await?.trim());
    setup.proxy.finish().await
}

#[tokio::test]
async fn a_stream_in_flight_outlives_the_signal_to_end() -> anyhow::Result<()> {
    let python = need!("grpc: signal", python::find("grpc").await);
    let setup = Setup::start(python, 1, &["--drain-time-s", "60"]).await?;
    let mut client = setup.client("stream_until_told")?;
    ensure!(client.line().await? == "calling");
    setup.proxy.signal(Signal::SIGTERM)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.tell("stop").await?;
    client.finish().await?;
    let took = setup.proxy.drain().await?;
    ensure!(took < Duration::from_secs(10), "the last stream ended, and it took {took:?} to end");
    Ok(())
}

#[tokio::test]
async fn a_server_that_leaves_in_order_costs_no_call() -> anyhow::Result<()> {
    let python = need!("grpc: leave", python::find("grpc").await);
    let mut setup = Setup::start(python, 2, &[]).await?;
    let mut client = setup.client("go_on_while_a_server_leaves")?;
    ensure!(client.line().await? == "calling");
    let leaving = setup.addresses[0].to_string();
    Script::start(&setup.python, "grpc_client.py", &["leave", &leaving])?.finish().await?;
    // The long stream may be with it, and then it waits for its grace time.
    let left = setup.servers.remove(0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    client.tell("stop").await?;
    client.finish().await?;
    left.finish().await?;
    setup.proxy.finish().await
}

async fn bounded(python: PathBuf, case: &str) -> anyhow::Result<()> {
    let setup = Setup::start(python, 1, &[]).await?;
    setup.client("call_unary")?.finish().await?;
    let before = setup.proxy.resident_kb()?;
    let mut client = tokio::spawn(setup.client(case)?.finish());
    let mut peak = before;
    loop {
        tokio::select! {
            ended = &mut client => {
                ended.context("it panicked")??;
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                peak = peak.max(setup.proxy.resident_kb()?);
            }
        };
    }
    measured!("gRPC {case}: 100 MB, resident memory grew by {} KB", peak - before);
    ensure!(peak - before < GROWTH_KB, "memory grew from {before} KB to {peak} KB");
    setup.proxy.finish().await
}

// === impl Setup ===

impl Setup {
    async fn start(python: PathBuf, servers: usize, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut scripts = Vec::new();
        let mut addresses = Vec::new();
        for number in 0..servers {
            let (script, address) =
                Script::server(&python, "grpc_server.py", &[&format!("server-{number}")]).await?;
            scripts.push(script);
            addresses.push(address);
        }
        // As anyone would who wants servers to come and go unnoticed.
        let retry = json!({"retry_on": "connect-failure,refused-stream", "num_retries": 2});
        let route = json!({"cluster": "up", "timeout": "0s", "retry_policy": retry});
        let bootstrap = Bootstrap::default()
            .http_routes("front", json!([{"match": {"prefix": "/"}, "route": route}]), json!({}))
            .http2_cluster("up", &addresses, json!({}));
        let proxy = Proxy::start_with(bootstrap, arguments).await?;
        Ok(Self { python, proxy, servers: scripts, addresses })
    }

    fn client(&self, case: &str) -> anyhow::Result<Script> {
        let (proxy, direct) = (self.proxy.at("front")?.to_string(), self.addresses[0].to_string());
        Script::start(&self.python, "grpc_client.py", &[case, &proxy, &direct])
    }
}
