//! One load against one proxy.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    time::{sleep, timeout},
};
use weft_tests::wrk;

use crate::{
    h2load,
    load::{Report, serve::Ports},
    peer::{self, Peer, Running},
    results::Sample,
    rows::{Figure, Load, Row},
    setup::{Setup, Upstreams},
    usage::{self, Usage},
};

/// Beyond its own length, what a load may take before the row counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What memory gets to settle: allocators give back late.
const SETTLE: Duration = Duration::from_secs(1);

/// Everything that a run needs: tools, upstreams, cores.
#[derive(Debug)]
pub struct Bench {
    directory: PathBuf,
    wrk: PathBuf,
    h2load: PathBuf,
    load: PathBuf,
    upstreams: Upstreams,
    proxy_core: usize,
    load_core: usize,
    length: Duration,
    warm_up: Duration,
    /// Held for their ends: they are killed with it.
    _nginx: Running,
    _serve: Child,
}

/// On which cores, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Core of the proxies.
    pub proxy_core: usize,
    /// Core of load and upstreams.
    pub load_core: usize,
    /// Each measurement.
    pub length: Duration,
    /// Before each.
    pub warm_up: Duration,
}

// === impl Bench ===

impl Bench {
    /// Finds the tools and starts the upstreams.
    pub async fn new(directory: &Path, plan: Plan) -> anyhow::Result<Self> {
        let load = peer::sibling("bench-load")?;
        let nginx = peer::upstream()?;
        let nginx = nginx.start(directory, plan.load_core, Setup::H2, 0)?;
        let mut serve = Command::from(peer::pinned(plan.load_core, &load))
            .arg("serve")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the upstream")?;
        let ports: Ports = first_line(&mut serve).await.context("the upstream does not start")?;
        Ok(Self {
            directory: directory.to_owned(),
            wrk: wrk::find()?,
            h2load: h2load::find()?,
            load,
            upstreams: Upstreams {
                http1: ports.http1,
                tcp: ports.tcp,
                h2: nginx.port,
                mutual_tls: nginx.second_port,
            },
            proxy_core: plan.proxy_core,
            load_core: plan.load_core,
            length: plan.length,
            warm_up: plan.warm_up,
            _nginx: nginx,
            _serve: serve,
        })
    }

    /// Starts a proxy as a row wants it.
    pub fn start(&self, peer: &Peer, row: &Row) -> anyhow::Result<Running> {
        peer.start(&self.directory, self.proxy_core, row.setup, row.setup.upstream(&self.upstreams))
    }

    /// Starts the proxy, loads it and measures it. `rate` and `baseline` are for requests at a constant rate only.
    pub async fn measure(
        &self,
        peer: &Peer,
        row: &Row,
        rate: f64,
        baseline: Option<[f64; 3]>,
    ) -> anyhow::Result<Sample> {
        let proxy = self.start(peer, row)?;
        if let Load::Held { connections } = row.load {
            return self.hold(&proxy, connections).await;
        }
        // Whatever goes wrong here goes wrong again where it is reported.
        self.load(proxy.port, row, rate, self.warm_up).await.ok();
        let before = usage::of_tree(proxy.pid())?;
        let report = self.load(proxy.port, row, rate, self.length).await?;
        let after = usage::of_tree(proxy.pid())?;
        let mut sample = costs(&report, before, after)?;
        if let Some((through, direct)) = report.latency.zip(baseline) {
            for (index, figure) in [Figure::P50, Figure::P99, Figure::P999].into_iter().enumerate() {
                sample.insert(figure, through[index] - direct[index]);
            }
        }
        Ok(sample)
    }

    /// The same requests without a proxy: what latency is added to.
    pub async fn baseline(&self, row: &Row, rate: f64) -> anyhow::Result<[f64; 3]> {
        let port = row.setup.upstream(&self.upstreams);
        let report = self.load(port, row, rate, self.length).await.context("without a proxy")?;
        report.latency.context("the load measures no latency")
    }

    /// Loads what listens on `port`.
    pub async fn load(&self, port: u16, row: &Row, rate: f64, length: Duration) -> anyhow::Result<Report> {
        let report = timeout(length + PATIENCE, self.start_load(port, row, rate, length))
            .await
            .context("the load does not end")??;
        ensure!(report.done > 0, "nothing succeeded: {}", report.error.as_deref().unwrap_or("no reason"));
        let Report { done, failed, error, .. } = &report;
        // Some clients count what was in flight at their end as failed.
        if failed * 100 > *done {
            bail!("{failed} of {} failed: {}", done + failed, error.as_deref().unwrap_or("no reason"));
        }
        Ok(report)
    }

    async fn start_load(&self, port: u16, row: &Row, rate: f64, length: Duration) -> anyhow::Result<Report> {
        match row.load {
            Load::Wrk { connections, path } => {
                // In TLS a server's name must not be an address.
                let server = if row.setup == Setup::Tls { "https://localhost" } else { "http://127.0.0.1" };
                let url = format!("{server}:{port}/{path}");
                let length = Duration::from_secs(length.as_secs().max(1));
                let report =
                    wrk::start_with(self.pinned(&self.wrk), &url, connections, length)?.report().await?;
                Ok(Report {
                    done: report.requests - report.bad_status.min(report.requests),
                    failed: report.failed(),
                    bytes: report.requests * if path == "1m" { 1 << 20 } else { 0 },
                    seconds: report.requests as f64 / report.rate.max(f64::MIN_POSITIVE),
                    error: (report.failed() > 0).then(|| report.to_string()),
                    latency: None,
                })
            }
            Load::H2load { connections, streams } => {
                let url = format!("http://127.0.0.1:{port}/");
                h2load::run(self.pinned(&self.h2load), &url, connections, streams, length).await
            }
            Load::Bulk { streams } => self.own("bulk", port, streams, length, &[]).await,
            Load::Connect { tasks } => self.own("connect", port, tasks, length, &[]).await,
            Load::Handshake { tasks } => self.own("handshake", port, tasks, length, &[]).await,
            Load::Paced { connections } => {
                self.own("paced", port, connections, length, &["--rate", &rate.to_string()]).await
            }
            Load::Held { .. } => bail!("idle connections are no load"),
        }
    }

    async fn own(
        &self,
        what: &str,
        port: u16,
        connections: u32,
        length: Duration,
        more: &[&str],
    ) -> anyhow::Result<Report> {
        let mut command = self.own_command(what, port, connections);
        command.args(["--milliseconds", &length.as_millis().to_string()]).args(more);
        let text = weft_tests::process::run(&mut command).await?;
        serde_json::from_str(&text).with_context(|| format!("the load printed no report:\n{text}"))
    }

    fn own_command(&self, what: &str, port: u16, connections: u32) -> Command {
        let mut command = self.pinned(&self.load);
        command.args([what, "--port", &port.to_string(), "--connections", &connections.to_string()]);
        command
    }

    fn pinned(&self, binary: &Path) -> Command {
        Command::from(peer::pinned(self.load_core, binary))
    }

    async fn hold(&self, proxy: &Running, connections: u32) -> anyhow::Result<Sample> {
        sleep(SETTLE).await;
        let before = usage::of_tree(proxy.pid())?;
        let mut holder = self
            .own_command("held", proxy.port, connections)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the load")?;
        let held: Result<u32, _> = first_line(&mut holder).await;
        ensure!(held? == connections, "not all connections were made");
        sleep(SETTLE).await;
        let after = usage::of_tree(proxy.pid())?;
        let grown = after.resident_kb.saturating_sub(before.resident_kb);
        Ok(Sample::from([
            (Figure::Idle, before.resident_kb as f64 / 1024.0),
            (Figure::Held, after.resident_kb as f64 / 1024.0),
            (Figure::PerConnection, grown as f64 / f64::from(connections)),
        ]))
    }
}

fn costs(report: &Report, before: Usage, after: Usage) -> anyhow::Result<Sample> {
    ensure!(report.seconds > 0.0, "no time passed");
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    let mut sample = Sample::from([
        (Figure::Busy, cpu / report.seconds * 100.0),
        (Figure::Peak, after.peak_kb as f64 / 1024.0),
    ]);
    if report.bytes > 0 {
        sample.insert(Figure::CpuPerGigabyte, cpu * 1e9 / report.bytes as f64);
        sample.insert(Figure::Rate, report.bytes as f64 / 1e6 / report.seconds);
    } else {
        sample.insert(Figure::Cpu, cpu * 1e6 / report.done as f64);
        sample.insert(Figure::Rate, report.done as f64 / report.seconds);
    }
    Ok(sample)
}

/// What a child of ours prints first, as JSON; if it prints nothing, the error is what it said before it ended.
async fn first_line<T: serde::de::DeserializeOwned>(child: &mut Child) -> anyhow::Result<T> {
    let output = child.stdout.as_mut().context("no standard output")?;
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(output).read_line(&mut line)).await.context("it prints nothing")??;
    if line.is_empty() {
        let mut said = String::new();
        if let Some(stderr) = child.stderr.as_mut() {
            stderr.read_to_string(&mut said).await?;
        }
        bail!("{}", said.trim());
    }
    serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
}
