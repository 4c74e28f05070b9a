//! `weft-proxy` as a child process.

use std::{
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{http, process, wait};

/// A running proxy; ended by its process id when dropped. A test that used one ends with [`finish`](Self::finish).
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    pid: u32,
    admin: SocketAddr,
    listeners: Value,
    /// Whether the test came to its end; otherwise the log is of interest.
    finished: bool,
    directory: TempDir,
}

/// How long an orderly end may take; connections that a test leaves open are closed after it.
const DRAIN_SECONDS: &str = "5";

/// The `weft-proxy` binary that was built together with this test; `WEFT_PROXY_BIN` names another.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("WEFT_PROXY_BIN") {
        return Ok(path.into());
    }
    // target/PROFILE/deps/TEST → target/PROFILE/weft-proxy
    let test = env::current_exe().context("cannot tell where this test is")?;
    let profile = test.ancestors().nth(2).context("a test binary has a profile directory")?;
    let proxy = profile.join("weft-proxy");
    if !proxy.is_file() {
        bail!(
            "{} is not built; use tests/run, or cargo build -p weft-proxy with the same profile",
            proxy.display()
        );
    }
    Ok(proxy)
}

// === impl Proxy ===

impl Proxy {
    /// Starts a proxy on this bootstrap (YAML or JSON, without `admin`) and waits until it is ready.
    pub async fn start(bootstrap: impl ToString) -> anyhow::Result<Self> {
        Self::start_with(bootstrap, &[]).await
    }

    /// The same with further arguments; of one that is given twice the later counts.
    pub async fn start_with(bootstrap: impl ToString, arguments: &[&str]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("weft-test-proxy-").tempdir()?;
        let (config, admin) = (directory.path().join("bootstrap.yaml"), directory.path().join("admin"));
        fs::write(&config, bootstrap.to_string()).context("cannot write the bootstrap")?;
        let log = fs::File::create(directory.path().join("log")).context("cannot create the log")?;
        let mut command = Command::new(binary()?);
        command.arg("--config-path").arg(&config).arg("--admin-address-path").arg(&admin);
        command.args([
            "--config-yaml",
            "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}",
        ]);
        if !arguments.contains(&"--drain-time-s") {
            command.args(["--drain-time-s", DRAIN_SECONDS]);
        }
        command.args(arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().context("cannot share the log")?).stderr(log);
        let child = command.spawn().context("cannot start weft-proxy")?;
        let pid = child.id().context("a child that was not waited for has an id")?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut proxy =
            Self { child, pid, admin: nowhere, listeners: Value::Null, finished: false, directory };
        proxy.admin = wait::wait_for("the proxy tells its admin address", wait::LONG, || {
            let text = fs::read_to_string(&admin).unwrap_or_default();
            let alive = proxy.child.try_wait().map(|status| status.is_none()).unwrap_or(false);
            let log = proxy.log();
            async move {
                ensure!(alive, "weft-proxy ended:\n{log}");
                Ok(text.parse::<SocketAddr>())
            }
        })
        .await?;
        wait::wait_for("the proxy is ready", wait::LONG, || async {
            Ok(match proxy.admin("GET", "/ready").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status}: {body}")),
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await?;
        let (_, listeners) = proxy.admin("GET", "/listeners?format=json").await?;
        proxy.listeners = serde_json::from_str(&listeners).context("/listeners gave no JSON")?;
        Ok(proxy)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where a listener listens.
    pub fn at(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let all = self.listeners["listener_statuses"].as_array().context("no list of listeners")?;
        let listener = all.iter().find(|listener| listener["name"] == name);
        let address =
            &listener.with_context(|| format!("no listener {name}"))?["local_address"]["socket_address"];
        let (ip, port) = (address["address"].as_str(), address["port_value"].as_u64());
        let (ip, port) = ip.zip(port).with_context(|| format!("not an address: {address}"))?;
        Ok(SocketAddr::new(ip.parse()?, u16::try_from(port)?))
    }

    /// `http://ADDRESS` of a listener.
    pub fn url(&self, name: &str) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.at(name)?))
    }

    /// Status and body of an admin request.
    pub async fn admin(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        http::request(method, &format!("http://{}{path}", self.admin)).await
    }

    /// Every sample of `/stats/prometheus`: name with labels, and value.
    pub async fn metrics(&self) -> anyhow::Result<Vec<(String, f64)>> {
        let (status, text) = self.admin("GET", "/stats/prometheus").await?;
        ensure!(status == 200, "metrics: status {status}: {text}");
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(samples.collect())
    }

    /// The sum of the samples of this name whose labels contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let samples = self.metrics().await?;
        let is_it = |sample: &str| sample.split('{').next() == Some(name) && sample.contains(label);
        Ok(samples.iter().filter(|(sample, _)| is_it(sample)).map(|(_, value)| value).sum())
    }

    /// Waits until [`metric`](Self::metric) is `wanted`.
    pub async fn metric_becomes(&self, name: &str, label: &str, wanted: f64) -> anyhow::Result<()> {
        wait::wait_for(&format!("{name} {label} becomes {wanted}"), Duration::from_secs(20), || async {
            let value = self.metric(name, label).await?;
            Ok(if (value - wanted).abs() < 0.5 { Ok(()) } else { Err(format!("it is {value}")) })
        })
        .await
    }

    /// Resident memory in kilobytes.
    pub fn resident_kb(&self) -> anyhow::Result<u64> {
        process::resident_kb(self.pid).context("the proxy is not there")
    }

    /// How many file descriptors it has open.
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        let directory = format!("/proc/{}/fd", self.pid);
        Ok(fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))?.count())
    }

    /// A file in a directory of this proxy's own, removed with it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it printed and logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        process::send(self.pid, signal)
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Checks that it is alive and that no panic was caught, and ends it.
    pub async fn finish(mut self) -> anyhow::Result<()> {
        ensure!(self.is_running(), "the proxy ended by itself:\n{}", self.log());
        let metrics = self.metrics().await?;
        let panics: Vec<_> =
            metrics.iter().filter(|(name, value)| name.contains("caught_panic") && *value != 0.0).collect();
        ensure!(panics.is_empty(), "the proxy caught a panic: {panics:?}\n{}", self.log());
        ensure!(!self.log().contains("panicked at"), "the proxy panicked:\n{}", self.log());
        self.finished = true;
        Ok(())
    }

    /// Tells it to end in order, and waits until it has; gives the time that took.
    pub async fn drain(mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status =
            tokio::time::timeout(wait::LONG, self.child.wait()).await.context("it does not end")??;
        ensure!(status.success(), "the proxy ended with {status}:\n{}", self.log());
        self.finished = true;
        Ok(started.elapsed())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if !self.finished || env::var_os("WEFT_TEST_VERBOSE").is_some() {
            eprintln!("--- weft-proxy printed:\n{}---", self.log());
        }
        if self.is_running() {
            process::send(self.pid, Signal::SIGKILL).ok();
            // So that no zombie is left to a test process that runs for minutes.
            while self.is_running() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
