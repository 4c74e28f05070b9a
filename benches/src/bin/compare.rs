//! Weft beside nginx, HAProxy and Envoy: requests per second, CPU per request, latency and memory, in one run.
//!
//! The proxies share one core, one at a time; the upstream and wrk have another. So the rate is that of a proxy with a
//! core of its own as long as wrk and the upstream keep up, and CPU per request holds in any case.

use std::{num::NonZero, thread, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Parser;
use tokio::process::Command;
use weft_benches::{
    peer::{self, Peer, Running},
    table::{Run, Table},
    usage,
};
use weft_tests::wrk;

/// Runs the same load on Weft and on its peers.
#[derive(Debug, Parser)]
struct Args {
    /// How often everything is repeated, interleaved; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How long each run lasts, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u64,

    /// Numbers of connections
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    connections: Vec<u32>,

    /// Core of the proxies
    #[arg(long, default_value_t = 1)]
    proxy_core: usize,

    /// Core of wrk and of the upstream
    #[arg(long, default_value_t = 0)]
    load_core: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    ensure!(cores > args.proxy_core.max(args.load_core), "this machine has {cores} cores; choose others");
    let wrk = wrk::find()?;
    let directory =
        tempfile::Builder::new().prefix("weft-bench-").tempdir().context("no temporary directory")?;
    let upstream = peer::upstream()?.start(directory.path(), args.load_core, 0)?;

    let mut proxies = Vec::new();
    for found in [peer::weft(), peer::nginx(), peer::haproxy(), peer::envoy()] {
        match found.and_then(|peer: Peer| peer.start(directory.path(), args.proxy_core, upstream.port)) {
            Ok(running) => proxies.push(running),
            Err(error) => eprintln!("left out: {error:#}"),
        }
    }
    ensure!(
        proxies.first().is_some_and(|first| first.name == "weft"),
        "without weft there is nothing to compare"
    );

    let mut table = Table::new(proxies.iter().map(|proxy| proxy.name.clone()).collect());
    for round in 0..args.rounds {
        for &connections in &args.connections {
            for (index, proxy) in proxies.iter().enumerate() {
                let run = measure(proxy, &wrk, &args, connections).await?;
                eprintln!(
                    "round {round}: {} at {connections}: {:.0} req/s, {:.2} µs/req",
                    proxy.name, run.rate, run.cpu_per_request
                );
                table.add(connections, index, run);
            }
        }
    }
    println!(
        "medians of {} rounds of {} s, each proxy alone on core {}, wrk and upstream on core {}",
        args.rounds, args.seconds, args.proxy_core, args.load_core
    );
    println!("{table}");
    Ok(())
}

async fn measure(
    proxy: &Running,
    wrk: &std::path::Path,
    args: &Args,
    connections: u32,
) -> anyhow::Result<Run> {
    let url = format!("http://127.0.0.1:{}/", proxy.port);
    let load = |length: Duration| {
        let command = Command::from(peer::pinned(args.load_core, wrk));
        wrk::start_with(command, &url, connections, length)
    };
    // Pools fill and caches warm outside the measurement.
    load(Duration::from_secs(1))?.report().await?;
    let before = usage::of_tree(proxy.pid())?;
    let report = load(Duration::from_secs(args.seconds))?.report().await?;
    let after = usage::of_tree(proxy.pid())?;
    ensure!(report.requests > 0, "{} answered nothing: {report}", proxy.name);
    let cpu = after.cpu.saturating_sub(before.cpu);
    Ok(Run {
        rate: report.rate,
        cpu_per_request: cpu.as_secs_f64() * 1e6 / report.requests as f64,
        p50: report.p50,
        p99: report.p99,
        resident_kb: after.resident_kb,
        failed: report.failed(),
    })
}
