//! `weft up` as a child process.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
};

use crate::{docker, kubectl::Kubectl, process, wait::LONG};

/// The runtime that a test asks for; `auto` would test something else on another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// `--runtime process`
    Process,
    /// `--runtime docker`
    Docker,
}

/// A data directory, and the `weft up` that runs on it, if one does.
///
/// Dropping it ends whatever the cluster started, also after a failed assertion.
#[derive(Debug)]
pub struct Cluster {
    runtime: Runtime,
    demo: bool,
    data_dir: PathBuf,
    /// Filter of its logs, if it is not to be the default.
    log: Option<String>,
    /// Processes of our programs that were there before this cluster: somebody else's.
    strangers: BTreeSet<u32>,
    running: Option<Up>,
    _directory: TempDir,
}

/// One `weft up`.
#[derive(Debug)]
struct Up {
    child: Child,
    pid: u32,
    started: Instant,
    output: Output,
}

/// What the child printed so far.
#[derive(Debug, Clone)]
struct Output {
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    count: watch::Receiver<usize>,
}

/// The line with which `weft up` ends what it says about itself.
const READY: &str = "ready";

/// The line that says that the demo's parts are available.
const DEMO_READY: &str = "demo ready";

/// The `weft` binary that was built together with this test; `WEFT_BIN` names another.
pub fn weft_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("WEFT_BIN") {
        return Ok(path.into());
    }
    // target/PROFILE/deps/TEST → target/PROFILE/weft
    let test = env::current_exe().context("cannot tell where this test is")?;
    let profile = test.ancestors().nth(2).context("a test binary has a profile directory")?;
    let weft = profile.join("weft");
    if !weft.is_file() {
        bail!("{} is not built; use tests/run, or cargo build with the same profile first", weft.display());
    }
    Ok(weft)
}

/// What a cluster runs of ours: the binary, and the slim proxy beside it.
fn programs() -> anyhow::Result<Vec<PathBuf>> {
    let weft = weft_binary()?.canonicalize().context("cannot resolve the weft binary")?;
    Ok(vec![weft.with_file_name("weft-proxy"), weft])
}

// === impl Cluster ===

impl Cluster {
    /// A fresh data directory; nothing runs yet.
    pub fn new(runtime: Runtime, demo: bool) -> anyhow::Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("weft-test-").tempdir().context("no temporary directory")?;
        let data_dir = directory.path().canonicalize()?.join("data");
        let strangers = process::running(&programs()?);
        Ok(Self { runtime, demo, data_dir, log: None, strangers, running: None, _directory: directory })
    }

    /// With logs by this filter, from its next start.
    #[must_use]
    pub fn with_log(mut self, filter: &str) -> Self {
        self.log = Some(filter.to_owned());
        self
    }

    /// A fresh cluster that is up, demo included if asked for.
    pub async fn up(runtime: Runtime, demo: bool) -> anyhow::Result<Self> {
        let mut cluster = Self::new(runtime, demo)?;
        cluster.start().await?;
        Ok(cluster)
    }

    /// Starts `weft up` and waits until it says that it is ready; gives the time that took.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        let mut command = Command::new(weft_binary()?);
        command.arg("up").arg("--data-dir").arg(&self.data_dir);
        command.arg("--runtime").arg(match self.runtime {
            Runtime::Process => "process",
            Runtime::Docker => "docker",
        });
        for listen in ["--api-listen", "--dns-listen", "--xds-listen", "--metrics-listen"] {
            command.args([listen, "127.0.0.1:0"]);
        }
        if self.demo {
            command.arg("--demo");
        }
        if let Some(filter) = &self.log {
            command.args(["--log-level", filter]);
        }
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start weft")?;
        let pid = child.id().context("a child that was not waited for has an id")?;
        let output = Output::collect(child.stdout.take(), child.stderr.take());
        let up = self.running.insert(Up { child, pid, started, output });
        up.wait_for_line(if self.demo { DEMO_READY } else { READY }).await
    }

    /// Sends Ctrl-C's signal and waits for the end; gives what was printed in all.
    pub async fn stop(&mut self) -> anyhow::Result<String> {
        let mut up = self.running.take().context("it runs")?;
        process::send(up.pid, Signal::SIGINT)?;
        let status = tokio::time::timeout(LONG, up.child.wait()).await.context("weft does not end")??;
        let text = up.output.text();
        if !status.success() {
            bail!("weft ended with {status}:\n{text}");
        }
        Ok(text)
    }

    /// `kill -9` of control.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut up = self.running.take().context("it runs")?;
        process::send(up.pid, Signal::SIGKILL)?;
        up.child.wait().await.context("cannot wait for weft")?;
        Ok(())
    }

    /// Everything that `weft up` printed since its start.
    pub fn printed(&self) -> String {
        self.running.as_ref().map(|up| up.output.text()).unwrap_or_default()
    }

    /// The lines that contain `text`, with when each was read.
    pub fn lines_with(&self, text: &str) -> Vec<(Instant, String)> {
        let Some(up) = &self.running else { return Vec::new() };
        up.output.lock().iter().filter(|(_, line)| line.contains(text)).cloned().collect()
    }

    /// The value after `key` in the status that `weft up` prints.
    pub fn status(&self, key: &str) -> anyhow::Result<String> {
        let printed = self.printed();
        let values: BTreeMap<&str, &str> = printed
            .lines()
            .filter_map(|line| line.strip_prefix("  ")?.split_once(' '))
            .map(|(key, value)| (key, value.trim()))
            .collect();
        let value = values.get(key).with_context(|| format!("weft printed no {key:?}:\n{printed}"))?;
        Ok((*value).to_owned())
    }

    /// The lines of the status that start with `program`: what to type next.
    pub fn lines_to_type(&self, program: &str) -> Vec<String> {
        let is_it = |line: &&str| line.split_whitespace().next() == Some(program);
        self.printed().lines().map(str::trim).filter(is_it).map(str::to_owned).collect()
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The process id of `weft up`.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|up| up.pid)
    }

    /// The kubectl on PATH, for this cluster.
    pub fn kubectl(&self) -> anyhow::Result<Kubectl> {
        Ok(Kubectl::new(&crate::kubectl::find()?, &self.kubeconfig()))
    }

    /// A client as any program on this machine would make it from the kubeconfig.
    pub async fn client(&self) -> anyhow::Result<kube::Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).context("cannot read the kubeconfig")?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Where the host reaches the demo's `web`: `ADDRESS:PORT`, out of the line for curl.
    pub fn web(&self) -> anyhow::Result<String> {
        let lines = self.lines_to_type("curl");
        let url = lines
            .iter()
            .find_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("http://")));
        let authority = url.and_then(|url| url.split('/').next());
        authority
            .map(str::to_owned)
            .with_context(|| format!("weft printed no curl line:\n{}", self.printed()))
    }

    /// Processes, containers and networks that this cluster started and that are there now.
    pub async fn leftovers(&self) -> anyhow::Result<Vec<String>> {
        let named = process::mentioning(&self.data_dir);
        let mut found: Vec<String> =
            named.iter().map(|(pid, line)| format!("process {pid}: {line}")).collect();
        // A container's own process need not name the directory.
        let ours = process::running(&programs()?);
        let unnamed =
            ours.difference(&self.strangers).filter(|pid| named.iter().all(|(other, _)| other != *pid));
        found.extend(unnamed.map(|pid| format!("process {pid}: one of our programs")));
        if self.runtime == Runtime::Docker {
            found.extend(docker::weft_objects().await?);
        }
        Ok(found)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(up) = self.running.take() {
            if std::thread::panicking() || env::var_os("WEFT_TEST_VERBOSE").is_some() {
                eprintln!("--- weft printed:\n{}---", up.output.text());
            }
            process::send(up.pid, Signal::SIGINT).ok();
            let ended = |_: &u32| {
                let stat = fs::read_to_string(format!("/proc/{}/stat", up.pid)).unwrap_or_default();
                // Nobody waits for the child here, so what has ended is a zombie.
                stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z'))
            };
            let deadline = Instant::now() + Duration::from_secs(30);
            while !ended(&up.pid) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            if !ended(&up.pid) {
                process::send(up.pid, Signal::SIGKILL).ok();
            }
        }
        // What survives an orderly end, or a kill that no second start followed; each by its own id, supervisors with
        // what they supervise. Repeated, since something may have been started meanwhile.
        for _ in 0..5 {
            let left: Vec<u32> =
                process::mentioning(&self.data_dir).into_iter().map(|(pid, _)| pid).collect();
            if left.is_empty() {
                break;
            }
            for pid in process::with_descendants(left) {
                process::send(pid, Signal::SIGKILL).ok();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

// === impl Up ===

impl Up {
    async fn wait_for_line(&mut self, start: &str) -> anyhow::Result<Duration> {
        loop {
            if self.output.has_line(start) {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait().context("cannot look at weft")? {
                bail!("weft ended with {status} before it was ready:\n{}", self.output.text());
            }
            let more = tokio::time::timeout(Duration::from_millis(100), self.output.count.changed());
            // A closed channel means that the streams ended: the child is about to.
            if matches!(more.await, Ok(Err(_))) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if self.started.elapsed() > LONG * 2 {
                bail!(
                    "weft did not print {start:?} within {} s:\n{}",
                    LONG.as_secs() * 2,
                    self.output.text()
                );
            }
        }
    }
}

// === impl Output ===

impl Output {
    fn collect(
        stdout: Option<impl AsyncRead + Unpin + Send + 'static>,
        stderr: Option<impl AsyncRead + Unpin + Send + 'static>,
    ) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (count_tx, count) = watch::channel(0);
        let count_tx = Arc::new(count_tx);
        if let Some(stdout) = stdout {
            tokio::spawn(copy_lines(stdout, lines.clone(), count_tx.clone()));
        }
        if let Some(stderr) = stderr {
            tokio::spawn(copy_lines(stderr, lines.clone(), count_tx));
        }
        Self { lines, count }
    }

    fn has_line(&self, start: &str) -> bool {
        self.lock().iter().any(|(_, line)| line.starts_with(start))
    }

    fn text(&self) -> String {
        self.lock().iter().map(|(_, line)| format!("{line}\n")).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, String)>> {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

async fn copy_lines(
    stream: impl AsyncRead + Unpin,
    into: Arc<Mutex<Vec<(Instant, String)>>>,
    count: Arc<watch::Sender<usize>>,
) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        into.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((Instant::now(), line));
        count.send_modify(|count| *count += 1);
    }
}
