//! Containers as process trees of this machine, each under a [shim](crate::shim). Works anywhere, needs no root.
//!
//! A pod has a pair of loopback addresses instead of a network of its own, and its containers see the machine's files:
//! what a pod mounts is announced in the environment (`WEFT_VOLUME_NAME`), and mounted at its place as well where that
//! place exists and we are root.

mod cgroup;
mod exec;
mod launch;
mod log_reader;
mod records;
mod usage;

use std::{
    collections::HashSet,
    io,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::broadcast};
use tokio_util::task::TaskTracker;
use weft_api::mesh::{ADMIN_PORT, TrafficMode};

use self::{
    cgroup::Cgroups,
    records::{ContainerDir, Meta, Records},
};
use super::{
    Container, ContainerSpec, ContainerState, ExecOutcome, Image, ImageError, ImageOrigin, LogStream,
    OwnImage, PodRef, PodUid, PullPolicy, Runtime, RuntimeError, Sandbox, Usage, own_image,
};
use crate::{
    addresses::{AddressPair, AddressPool},
    config::AdsAddress,
    logs::LogOptions,
    proc,
    shim::spec::{Exited, Started, write_atomically},
};

/// How a runtime of processes is set up.
#[derive(Debug, Clone)]
pub(crate) struct ProcessConfig {
    /// Where records are kept.
    pub(crate) state_dir: PathBuf,
    /// Has the subcommands `shim` and `demo`.
    pub(crate) weft_binary: PathBuf,
    /// Runs a proxy; its flags follow.
    pub(crate) proxy_command: Vec<String>,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct ProcessRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ProcessConfig,
    records: Records,
    addresses: Mutex<AddressPool>,
    /// Directories of containers that are being started: no state file yet, and still not abandoned.
    starting: Mutex<HashSet<PathBuf>>,
    cgroups: Option<Cgroups>,
    changes: broadcast::Sender<PodUid>,
    /// Tasks that wait for the end of one shim each.
    waits: TaskTracker,
}

/// How often the end of a shim that an earlier agent started is looked for; we are not its parent.
const ADOPTED_POLL: Duration = Duration::from_millis(250);
/// How long a killed container may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

// === impl ProcessRuntime ===

impl ProcessRuntime {
    /// Opens the records and begins to watch what still runs.
    pub(crate) fn open(config: ProcessConfig) -> Result<Self, RuntimeError> {
        let records = Records::open(&config.state_dir)?;
        let mut addresses = AddressPool::new(&config.state_dir);
        for pod in records.pods()? {
            if let Some(pair) =
                records.sandbox(&pod.uid)?.and_then(|sandbox| AddressPair::from_pod(sandbox.pod_ip))
            {
                addresses.adopt(pair);
            }
        }
        let (changes, _) = broadcast::channel(1024);
        let shared = Arc::new(Shared {
            config,
            records,
            addresses: Mutex::new(addresses),
            starting: Mutex::default(),
            cgroups: Cgroups::detect(),
            changes,
            waits: TaskTracker::new(),
        });
        let runtime = Self { shared };
        for pod in runtime.shared.records.pods()? {
            runtime.watch_adopted(&pod.uid)?;
        }
        Ok(runtime)
    }

    fn watch_adopted(&self, uid: &PodUid) -> Result<(), RuntimeError> {
        for directory in self.shared.records.container_dirs(uid)? {
            let Some(started) = directory.started()? else { continue };
            if directory.exited()?.is_some() {
                continue;
            }
            let (changes, uid) = (self.shared.changes.clone(), uid.clone());
            self.shared.waits.spawn(async move {
                while proc::is_alive(started.shim_pid, started.shim_start) {
                    tokio::time::sleep(ADOPTED_POLL).await;
                }
                let _ = changes.send(uid);
            });
        }
        Ok(())
    }

    fn directory(&self, container: &Container) -> ContainerDir {
        self.shared.records.container_dir(&container.pod, container.role, &container.name, container.attempt)
    }

    /// What a directory says about its container; `None` while it is being started.
    fn read(&self, directory: &ContainerDir) -> Result<Option<Container>, RuntimeError> {
        let Some(meta) = directory.meta()? else {
            self.discard_if_abandoned(directory);
            return Ok(None);
        };
        if let Some(exited) = directory.exited()? {
            return Ok(Some(self.exited(directory, &meta, exited)));
        }
        let Some(started) = directory.started()? else {
            self.discard_if_abandoned(directory);
            return Ok(None);
        };
        if proc::is_alive(started.shim_pid, started.shim_start) {
            let state = ContainerState::Running { started_at: started.started_at };
            return Ok(Some(meta.container(state)));
        }
        // It may have written its exit file between our two looks.
        let exited = match directory.exited()? {
            Some(exited) => exited,
            None => bury(directory, &started)?,
        };
        Ok(Some(self.exited(directory, &meta, exited)))
    }

    fn exited(&self, directory: &ContainerDir, meta: &Meta, exited: Exited) -> Container {
        // Whichever process of the container was killed: a failure after that is taken as its consequence.
        let oom_killed = exited.exit_code != 0
            && self
                .shared
                .cgroups
                .as_ref()
                .is_some_and(|cgroups| cgroups.was_oom_killed(&directory.cgroup_name()));
        meta.container(ContainerState::Exited(super::Exit {
            code: exited.exit_code,
            signal: exited.signal,
            oom_killed,
            error: exited.error,
            started_at: exited.started_at,
            finished_at: exited.finished_at,
        }))
    }

    /// An agent that was killed while it started a container leaves a directory without state.
    fn discard_if_abandoned(&self, directory: &ContainerDir) {
        let busy = self.shared.starting.lock().contains(directory.path());
        if !busy && directory.age().is_some_and(|age| age > Duration::from_secs(10)) {
            tracing::warn!(directory = %directory.path().display(), "removing a container that was never started");
            let _ = directory.remove();
        }
    }

    fn running(&self, container: &Container) -> Result<Option<Started>, RuntimeError> {
        let started = self.directory(container).started()?;
        Ok(started.filter(|started| proc::is_alive(started.shim_pid, started.shim_start)))
    }

    async fn kill_and_wait(&self, started: &Started) {
        signal(started.shim_pid, started.shim_start, Signal::SIGUSR1);
        let deadline = tokio::time::Instant::now() + KILL_PATIENCE;
        while proc::is_alive(started.shim_pid, started.shim_start) {
            if tokio::time::Instant::now() > deadline {
                tracing::warn!(pid = started.shim_pid, "a shim does not end; killing it");
                signal(started.shim_pid, started.shim_start, Signal::SIGKILL);
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn version(&self) -> String {
        format!("process://{}", env!("CARGO_PKG_VERSION"))
    }

    fn traffic(&self) -> TrafficMode {
        TrafficMode::Addressed
    }

    fn control_address(&self, control: &AdsAddress) -> AdsAddress {
        control.clone()
    }

    fn enforces_limits(&self) -> bool {
        self.shared.cgroups.is_some()
    }

    fn mounts_at(&self, target: &Path) -> bool {
        can_mount_at(target)
    }

    fn changes(&self) -> broadcast::Receiver<PodUid> {
        self.shared.changes.subscribe()
    }

    async fn health(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn pods(&self) -> Result<Vec<PodRef>, RuntimeError> {
        self.shared.records.pods()
    }

    async fn ensure_sandbox(&self, pod: &PodRef, _sidecar: bool) -> Result<Sandbox, RuntimeError> {
        if let Some(sandbox) = self.sandbox(pod).await? {
            return Ok(sandbox);
        }
        let pair = self
            .shared
            .addresses
            .lock()
            .allocate(|pair| TcpListener::bind((pair.sidecar(), ADMIN_PORT)).is_ok())
            .map_err(|error| RuntimeError::Failed(error.to_string()))?;
        self.shared
            .records
            .create_sandbox(pod, pair.pod)
            .inspect_err(|_| self.shared.addresses.lock().release(pair))?;
        Ok(sandbox_of(pod.clone(), pair))
    }

    async fn sandbox(&self, pod: &PodRef) -> Result<Option<Sandbox>, RuntimeError> {
        let record = self.shared.records.sandbox(&pod.uid)?;
        Ok(record.and_then(|record| Some(sandbox_of(record.pod, AddressPair::from_pod(record.pod_ip)?))))
    }

    async fn remove_pod(&self, uid: &PodUid) -> Result<(), RuntimeError> {
        for directory in self.shared.records.container_dirs(uid)? {
            if let Some(started) = directory.started()? {
                if proc::is_alive(started.shim_pid, started.shim_start) {
                    self.kill_and_wait(&started).await;
                }
                bury_processes(&started);
            }
            if let Some(cgroups) = &self.shared.cgroups {
                cgroups.remove(&directory.cgroup_name());
            }
        }
        let pair = self.shared.records.sandbox(uid)?.and_then(|record| AddressPair::from_pod(record.pod_ip));
        self.shared.records.remove_pod(uid)?;
        if let Some(pair) = pair {
            self.shared.addresses.lock().release(pair);
        }
        Ok(())
    }

    async fn containers(&self, uid: &PodUid) -> Result<Vec<Container>, RuntimeError> {
        let directories = self.shared.records.container_dirs(uid)?;
        directories.iter().filter_map(|directory| self.read(directory).transpose()).collect()
    }

    async fn ensure_image(
        &self,
        image: &str,
        _policy: PullPolicy,
        _pulling: &(dyn Fn() + Sync),
    ) -> Result<Image, ImageError> {
        if image.is_empty() || image.chars().any(char::is_whitespace) {
            return Err(ImageError::InvalidName(image.into()));
        }
        let weft = self.shared.config.weft_binary.to_string_lossy().into_owned();
        let (id, entrypoint) = match own_image(image) {
            Some(OwnImage::Demo) => (format!("process://{weft}"), vec![weft, "demo".into()]),
            Some(OwnImage::Proxy) => (format!("process://{weft}"), self.shared.config.proxy_command.clone()),
            None => ("process://host".to_owned(), Vec::new()),
        };
        Ok(Image { name: image.into(), id, entrypoint, origin: ImageOrigin::Present })
    }

    async fn start(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<Container, RuntimeError> {
        self.launch(sandbox, spec).await
    }

    async fn stop(&self, container: &Container) -> Result<(), RuntimeError> {
        if let Some(started) = self.running(container)? {
            signal(started.shim_pid, started.shim_start, Signal::SIGTERM);
        }
        Ok(())
    }

    async fn kill(&self, container: &Container) -> Result<(), RuntimeError> {
        if let Some(started) = self.running(container)? {
            self.kill_and_wait(&started).await;
            let _ = self.shared.changes.send(container.pod.clone());
        }
        Ok(())
    }

    async fn remove(&self, container: &Container) -> Result<(), RuntimeError> {
        let directory = self.directory(container);
        if let Some(cgroups) = &self.shared.cgroups {
            cgroups.remove(&directory.cgroup_name());
        }
        directory.remove()
    }

    async fn exec(
        &self,
        container: &Container,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        let spec = self.directory(container).shim_spec()?;
        let spec = spec.ok_or_else(|| RuntimeError::Failed("the container is gone".into()))?;
        exec::run(&spec, command, timeout).await
    }

    async fn connect(&self, sandbox: &Sandbox, port: u16) -> io::Result<TcpStream> {
        TcpStream::connect((sandbox.pod_ip, port)).await
    }

    async fn logs(&self, container: &Container, options: LogOptions) -> Result<LogStream, RuntimeError> {
        Ok(log_reader::stream(self.directory(container), options))
    }

    async fn usage(&self, uid: &PodUid) -> Result<Vec<Usage>, RuntimeError> {
        let mut running = Vec::new();
        for container in self.containers(uid).await? {
            if let (ContainerState::Running { started_at }, Some(started)) =
                (&container.state, self.running(&container)?)
            {
                running.push((container.name.clone(), container.role, *started_at, started));
            }
        }
        Ok(usage::of(running))
    }

    async fn remove_shared(&self) -> Result<(), RuntimeError> {
        if let Some(cgroups) = &self.shared.cgroups {
            cgroups.remove_root();
        }
        Ok(())
    }
}

fn sandbox_of(pod: PodRef, pair: AddressPair) -> Sandbox {
    Sandbox { handle: pod.uid.to_string(), pod, pod_ip: pair.pod, sidecar_ip: pair.sidecar() }
}

/// Signals a process unless its number belongs to another one by now.
fn signal(pid: u32, start_ticks: u64, signal: Signal) {
    if let (true, Ok(pid)) = (proc::is_alive(pid, start_ticks), i32::try_from(pid)) {
        // It may end at this very moment, which is no error.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Ends what a shim that was killed left behind, and writes the exit file in its place.
fn bury(directory: &ContainerDir, started: &Started) -> Result<Exited, RuntimeError> {
    bury_processes(started);
    let exited = Exited {
        exit_code: 137,
        signal: Some(Signal::SIGKILL as i32),
        error: Some("the container's supervisor was killed".into()),
        started_at: Some(started.started_at),
        finished_at: jiff::Timestamp::now(),
    };
    write_atomically(&directory.exit_path(), &exited).map_err(RuntimeError::io("write an exit file"))?;
    Ok(exited)
}

fn bury_processes(started: &Started) {
    if !proc::is_alive(started.pid, started.pid_start) {
        return;
    }
    crate::shim::kill_tree(started.pid);
    if let Ok(pid) = i32::try_from(started.pid) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Whether we can mount there: the place exists and we may. We do not make places on this machine for a pod.
fn can_mount_at(target: &Path) -> bool {
    nix::unistd::geteuid().is_root() && target.is_absolute() && target.exists()
}
