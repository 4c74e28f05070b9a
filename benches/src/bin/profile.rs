//! Where the time of a request goes: Weft alone under the load of one row, watched by perf, then by strace.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use nix::sys::signal::Signal;
use tokio::{process::Command, time::sleep};
use weft_benches::{
    certificates,
    measure::{Bench, Plan},
    peer, profile,
    rows::{Figure, ROWS, Row},
};
use weft_tests::process;

/// For how long perf watches.
const WATCHED: Duration = Duration::from_secs(4);

/// Profiles weft-proxy under the load of a row
#[derive(Debug, Parser)]
struct Args {
    /// The row's name
    #[arg(default_value = "small-64")]
    row: String,

    /// Core of the proxy
    #[arg(long, default_value_t = 1)]
    proxy_core: usize,

    /// Core of load and upstream
    #[arg(long, default_value_t = 0)]
    load_core: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let row = ROWS.iter().find(|row| row.key == args.row).context("there is no such row")?;
    let directory =
        tempfile::Builder::new().prefix("weft-bench-").tempdir().context("no temporary directory")?;
    certificates::write(directory.path())?;
    let plan = Plan {
        proxy_core: args.proxy_core,
        load_core: args.load_core,
        length: WATCHED,
        warm_up: Duration::from_secs(1),
    };
    let bench = Bench::new(directory.path(), plan).await?;
    let sample = bench.measure(&peer::weft()?, row, 1000.0, None).await?;
    let figure = [Figure::Cpu, Figure::CpuPerGigabyte].into_iter().find(|figure| sample.contains_key(figure));
    let figure = figure.context("this row has no cost")?;
    println!("{}: {:.2} {} of CPU\n", row.key, sample[&figure], figure.unit());
    let functions = sampled(&bench, row, directory.path()).await?;
    println!("{}", profile::samples(&functions, sample[&figure], figure.unit()));
    println!("{}", calls(&bench, row, directory.path()).await?);
    Ok(())
}

/// The load begins before perf and ends after it.
async fn sampled(bench: &Bench, row: &Row, directory: &Path) -> anyhow::Result<profile::Functions> {
    let proxy = bench.start(&peer::weft()?, row)?;
    let data = directory.join("perf.data").display().to_string();
    let watch = async {
        sleep(Duration::from_secs(1)).await;
        // The clock, since virtual machines often have no counters.
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-e", "cpu-clock", "-F", "5000", "-o", &data, "-p"]);
        perf.args([&proxy.pid().to_string(), "--", "sleep", &WATCHED.as_secs().to_string()]);
        process::run(&mut perf).await
    };
    let load = bench.load(proxy.port, row, 1000.0, WATCHED + Duration::from_secs(2));
    let (loaded, watched) = tokio::join!(load, watch);
    loaded?;
    watched?;
    let mut script = Command::new("perf");
    script.args(["script", "-i", &data, "-F", "ip,sym,dso"]);
    Ok(profile::functions(&process::run(&mut script).await?))
}

/// strace is there before the load and stays until it is over: so both counts are of the same requests.
async fn calls(bench: &Bench, row: &Row, directory: &Path) -> anyhow::Result<String> {
    let proxy = bench.start(&peer::weft()?, row)?;
    bench.load(proxy.port, row, 1000.0, Duration::from_secs(1)).await?;
    let counts = directory.join("strace.txt");
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-q", "-o", &counts.display().to_string(), "-p", &proxy.pid().to_string()])
        .kill_on_drop(true)
        .spawn()
        .context("cannot start strace")?;
    sleep(Duration::from_secs(1)).await;
    let report = bench.load(proxy.port, row, 1000.0, WATCHED).await?;
    process::send(strace.id().context("strace has ended")?, Signal::SIGINT)?;
    strace.wait().await.context("cannot wait for strace")?;
    let text = std::fs::read_to_string(&counts).context("strace wrote nothing")?;
    Ok(profile::calls(&text, report.done))
}
