//! Weft beside Envoy, HAProxy, nginx and Sozu: CPU, rate, latency and memory, in one run.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use weft_benches::{
    certificates, chart,
    machine::Machine,
    measure::{Bench, Plan},
    peer::{self, Peer},
    readme,
    results::Results,
    rows::{Figure, MAXIMUM, PACED, ROWS, Row},
    table,
};

/// The rate of the row at a constant rate, where the row that would tell the maxima was not measured.
const USUAL_RATE: f64 = 2000.0;

/// Runs the same load on Weft and on its peers.
#[derive(Debug, Parser)]
struct Args {
    /// One round of one second each, to see whether all is well
    #[arg(long)]
    quick: bool,

    /// How often everything is repeated; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How long each measurement lasts, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,

    /// Only these rows, by name: small-1, small-16, small-64, small-256, configured, body-10k, body-1m, h2, h2-http1,
    /// http1-h2, tls, handshake, mutual-tls, bulk-1, bulk-8, connect, paced, idle
    #[arg(long, value_delimiter = ',', value_name = "ROW")]
    only: Vec<String>,

    /// Only these proxies beside Weft, by name
    #[arg(long, value_delimiter = ',', value_name = "PROXY")]
    peers: Vec<String>,

    /// Where table and chart go [default: benches/results for a complete run, else target/bench]
    #[arg(long)]
    results: Option<PathBuf>,

    /// Core of the proxies
    #[arg(long, default_value_t = 1)]
    proxy_core: usize,

    /// Core of load and upstream
    #[arg(long, default_value_t = 0)]
    load_core: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
    // All children are ended as the run is dropped.
    tokio::select! {
        ran = run(&args) => ran,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let rows = args.rows()?;
    let peers = args.peers()?;
    let directory =
        tempfile::Builder::new().prefix("weft-bench-").tempdir().context("no temporary directory")?;
    certificates::write(directory.path())?;
    let bench = Bench::new(directory.path(), args.plan()).await?;
    let mut results = Results::new(peers.iter().map(|peer| peer.name).collect());
    let versions: Vec<String> = peers.iter().map(|peer| format!("{} {}", peer.name, peer.version)).collect();
    let heading = format!(
        "{}; {}. Medians (and ranges) of {} rounds of {} s.",
        Machine::here(),
        versions.join(", "),
        args.rounds(),
        args.plan().length.as_secs()
    );
    let started = Instant::now();
    let mut rate = None;
    for round in 0..args.rounds() {
        for row in &rows {
            let rate = if row.key == PACED {
                *rate.get_or_insert_with(|| third_of_slowest(&results))
            } else {
                USUAL_RATE
            };
            one_row(&bench, &peers, row, rate, round, &mut results).await;
        }
        // After each round, so that a run that is cut short leaves what it has.
        args.write(&results, &heading)?;
    }
    println!("{}", table::render(&results, &heading));
    eprintln!("took {} s", started.elapsed().as_secs());
    Ok(())
}

/// Every proxy once, each round beginning with another one; what fails is noted, and tried once more before.
async fn one_row(bench: &Bench, peers: &[Peer], row: &Row, rate: f64, round: usize, results: &mut Results) {
    let baseline = if row.key == PACED {
        match bench.baseline(row, rate).await {
            Ok(baseline) => Some(baseline),
            Err(error) => return results.add(row.key, "direct", Err(format!("{error:#}"))),
        }
    } else {
        None
    };
    let able: Vec<&Peer> = peers.iter().filter(|peer| peer.can(row.setup)).collect();
    for place in 0..able.len() {
        let peer = able[(place + round) % able.len()];
        let outcome = match bench.measure(peer, row, rate, baseline).await {
            Ok(sample) => Ok(sample),
            Err(_) => bench.measure(peer, row, rate, baseline).await,
        };
        let shown = match &outcome {
            Ok(sample) => {
                sample.iter().map(|(figure, value)| format!("{figure:?} {}", table::number(*value))).collect()
            }
            Err(error) => vec![format!("failed: {error:#}")],
        };
        eprintln!("round {}, {}, {}: {}", round + 1, row.key, peer.name, shown.join(", "));
        results.add(row.key, peer.name, outcome.map_err(|error| format!("{error:#}")));
    }
}

/// 30 % of what the slowest proxy can do, for all.
fn third_of_slowest(results: &Results) -> f64 {
    let rates = results.proxies.iter().filter_map(|proxy| results.spread(MAXIMUM, proxy, Figure::Rate));
    let slowest = rates.map(|rate| rate.low).min_by(f64::total_cmp);
    slowest.map_or(USUAL_RATE, |rate| (rate * 0.3).round())
}

// === impl Args ===

impl Args {
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds }
    }

    fn plan(&self) -> Plan {
        let seconds = if self.quick { 1 } else { self.seconds };
        Plan {
            proxy_core: self.proxy_core,
            load_core: self.load_core,
            length: Duration::from_secs(seconds),
            warm_up: Duration::from_secs(1),
        }
    }

    fn rows(&self) -> anyhow::Result<Vec<&'static Row>> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        ensure!(cores > self.proxy_core.max(self.load_core), "this machine has {cores} cores; choose others");
        if let Some(unknown) = self.only.iter().find(|key| !ROWS.iter().any(|row| row.key == **key)) {
            bail!("there is no row {unknown}");
        }
        let wanted = |row: &&Row| self.only.is_empty() || self.only.iter().any(|key| key == row.key);
        Ok(ROWS.iter().filter(wanted).collect())
    }

    /// Weft first; a peer that is not there is left out.
    fn peers(&self) -> anyhow::Result<Vec<Peer>> {
        let mut peers = vec![peer::weft()?];
        for found in [peer::envoy(), peer::haproxy(), peer::nginx(), peer::sozu()] {
            match found {
                Ok(peer) if self.peers.is_empty() || self.wants(&peer) => peers.push(peer),
                Ok(_) => {}
                Err(error) => eprintln!("left out: {error:#}"),
            }
        }
        Ok(peers)
    }

    fn wants(&self, peer: &Peer) -> bool {
        self.peers.iter().any(|name| name.eq_ignore_ascii_case(peer.name))
    }

    /// A run that leaves anything out does not replace the results that the repository keeps.
    fn complete(&self) -> bool {
        !self.quick && self.only.is_empty() && self.peers.is_empty()
    }

    fn write(&self, results: &Results, heading: &str) -> anyhow::Result<()> {
        let usual = if self.complete() { "benches/results" } else { "target/bench" };
        let directory = self.results.as_deref().unwrap_or(Path::new(usual));
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let table = table::render(results, heading);
        for (name, text) in [("table.md", &table), ("chart.svg", &chart::render(results, heading))] {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        if self.complete() && self.results.is_none() {
            readme::update(Path::new("benches/README.md"), &table)?;
        }
        Ok(())
    }
}
