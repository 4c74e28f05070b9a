//! One control service, a fleet of sidecars, and the time a change takes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use weft_benches::{
    machine::Machine,
    propagation::{
        control::{self, Command, Report},
        sidecars::{self, Fleet},
    },
    usage::{self, Usage},
};

/// Measures how fast changes reach every proxy, and what that costs the control service
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    fleet: Fleet,

    /// Services in the mesh
    #[arg(long, default_value_t = 1000)]
    services: usize,

    /// Endpoints in the mesh
    #[arg(long, default_value_t = 10_000)]
    endpoints: usize,

    /// Changes one by one
    #[arg(long, default_value_t = 30)]
    singles: usize,

    /// Milliseconds between them
    #[arg(long, default_value_t = 1000)]
    gap: u64,

    /// Changes in a storm; one storm has no pause between them, one spreads them over a second
    #[arg(long, default_value_t = 1000)]
    storm: usize,

    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The control service alone, commanded over standard input
    Control,
    /// The sidecars alone
    Sidecars {
        /// Of the control service
        address: String,
    },
}

/// The control service as a process.
struct Control {
    child: Child,
    commands: ChildStdin,
    reports: BufReader<ChildStdout>,
    address: String,
}

/// Killed when dropped.
struct Sidecars(Child);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match &args.part {
        Some(Part::Control) => runtime()?.block_on(control::run(args.services, args.endpoints)),
        Some(Part::Sidecars { address }) => runtime()?.block_on(sidecars::run(address, &args.fleet)),
        None => measure(&args),
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let Args { fleet, services, endpoints, .. } = args;
    println!("{}", Machine::here());
    println!(
        "{} {:?} sidecars, {} a connection, {services} services, {endpoints} endpoints, each asks for {}",
        fleet.proxies,
        fleet.variant,
        fleet.per_connection,
        fleet.uses.map_or("all".to_owned(), |uses| uses.to_string()),
    );
    let mut control = Control::start(args)?;
    let empty = control.built()?;
    let sidecars = Sidecars::start(args, &control.address)?;
    row(
        "all connected",
        &control.run(&Command::Settle(fleet.proxies))?,
        &empty,
        &control,
        &sidecars,
        Usage::default(),
    )?;
    let full = control.usage()?;
    let per_stream = full.resident_kb.saturating_sub(empty.resident_kb) as f64 / fleet.proxies.max(1) as f64;
    println!("{:16} {per_stream:.1} KB of memory per idle stream", "");
    for (name, command) in [
        ("one at a time", Command::Single(args.singles, args.gap)),
        ("storm, at once", Command::Storm(args.storm, 0)),
        ("storm, in 1 s", Command::Storm(args.storm, 1_000_000 / args.storm.max(1) as u64)),
    ] {
        let (before, others) = (control.usage()?, usage::of_tree(sidecars.0.id())?);
        let report = control.run(&command)?;
        row(name, &report, &before, &control, &sidecars, others)?;
    }
    Ok(())
}

fn row(
    name: &str,
    report: &Report,
    before: &Usage,
    control: &Control,
    sidecars: &Sidecars,
    others: Usage,
) -> anyhow::Result<()> {
    let mut sorted = report.micros.clone();
    sorted.sort_unstable();
    let at = |percent: usize| {
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).map_or(f64::NAN, |micros| *micros as f64 / 1000.0)
    };
    let (now, sidecars) = (control.usage()?, usage::of_tree(sidecars.0.id())?);
    let seconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
    println!(
        "{name:16} p50 {:8.1} ms  p99 {:8.1} ms  {:7} answers  {} behind  CPU control {:6.2} s  sidecars {:6.2} s  memory {:4} MB  peak {:4} MB",
        at(50),
        at(99),
        report.answers,
        report.behind,
        seconds(before.cpu, now.cpu),
        seconds(others.cpu, sidecars.cpu),
        now.resident_kb / 1024,
        now.peak_kb / 1024,
    );
    Ok(())
}

// === impl Control ===

impl Control {
    fn start(args: &Args) -> anyhow::Result<Self> {
        let mut child = Process::new(std::env::current_exe()?)
            .args([
                "--services",
                &args.services.to_string(),
                "--endpoints",
                &args.endpoints.to_string(),
                "control",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (commands, output) = child.stdin.take().zip(child.stdout.take()).context("it has no pipes")?;
        let mut reports = BufReader::new(output);
        let mut address = String::new();
        reports.read_line(&mut address)?;
        Ok(Self { child, commands, reports, address: address.trim().to_owned() })
    }

    fn run(&mut self, command: &Command) -> anyhow::Result<Report> {
        writeln!(self.commands, "{}", serde_json::to_string(command)?)?;
        let mut line = String::new();
        self.reports.read_line(&mut line)?;
        serde_json::from_str(&line).context("the control service ended")
    }

    /// What it uses when everything is built and nobody is there: when it has stopped working.
    fn built(&self) -> anyhow::Result<Usage> {
        let mut before = Usage::default();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.usage()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        usage::of_tree(self.child.id())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Sidecars ===

impl Sidecars {
    fn start(args: &Args, address: &str) -> anyhow::Result<Self> {
        let fleet = &args.fleet;
        let mut process = Process::new(std::env::current_exe()?);
        process.args(["--proxies", &fleet.proxies.to_string()]);
        process.args(["--per-connection", &fleet.per_connection.to_string()]);
        process.args(["--variant", if fleet.variant == sidecars::Variant::Delta { "delta" } else { "sotw" }]);
        if let Some(uses) = fleet.uses {
            process.args(["--uses", &uses.to_string()]);
        }
        Ok(Self(process.args(["sidecars", address]).stdin(Stdio::null()).spawn()?))
    }
}

impl Drop for Sidecars {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
