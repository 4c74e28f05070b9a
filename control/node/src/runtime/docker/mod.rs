//! Containers of a Docker Engine (20.10 or newer) on this machine.
//!
//! A pod is a sandbox container that does nothing but hold the network namespace, and one container beside it per
//! container of the pod. What runs is known from labels alone, so an agent adopts what another one started. In the
//! namespace all TCP is redirected to the sidecar ([`capture`]), which takes root; without root this runtime refuses
//! to start rather than to run pods outside of the mesh.

mod capture;
mod containers;
mod engine;
mod images;
mod logs;
mod network;
mod watch;

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bollard::Docker;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::broadcast};
use tokio_util::task::AbortOnDropHandle;
use weft_api::mesh::TrafficMode;

use self::{engine::Labels, images::OwnImages};
use super::{
    Container, ContainerSpec, ContainerState, ExecOutcome, Image, ImageError, LogStream, PodRef, PodUid,
    PullPolicy, Runtime, RuntimeError, Sandbox, Usage,
};
use crate::{config::AdsAddress, logs::LogOptions};

/// How the runtime is set up.
#[derive(Debug, Clone)]
pub(crate) struct DockerConfig {
    /// Names the cluster: containers and network of other data directories are not ours.
    pub(crate) data_dir: PathBuf,
    pub(crate) weft_binary: PathBuf,
    pub(crate) proxy_binary: Option<PathBuf>,
    /// The mesh's DNS server; without one containers resolve as Docker sets them up.
    pub(crate) dns_address: Option<SocketAddr>,
    pub(crate) cluster_domain: String,
}

/// The bridge network of a cluster, as it is seen from this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerNetwork {
    /// Its name in the Engine.
    pub name: String,
    /// This machine's address in it: where containers reach the mesh control service and the DNS server.
    pub gateway: Ipv4Addr,
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct DockerRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    docker: Docker,
    config: DockerConfig,
    labels: Labels,
    version: String,
    network: DockerNetwork,
    images: OwnImages,
    /// Sandboxes whose capture rules this agent has written. Rules of an earlier agent may be of an older form.
    captured: Mutex<HashSet<String>>,
    changes: broadcast::Sender<PodUid>,
    _watch: AbortOnDropHandle<()>,
}

/// Bound of a probe's connection; the probe's own bound is usually shorter.
const CONNECT: Duration = Duration::from_secs(10);
/// The oldest API that has all we use: that of Engine 20.10.
const MIN_API: (u32, u32) = (1, 41);

/// Makes the bridge network of a cluster, or finds it. For the composition root, which must know the gateway's address
/// before it can listen there.
pub async fn prepare(data_dir: &Path) -> Result<DockerNetwork, String> {
    let inner = async {
        let docker = connect().await?.0;
        network::ensure(&docker, &Labels::new(&cluster_dir(data_dir)?)).await
    };
    inner.await.map_err(|error: RuntimeError| weft_kit::error::chain(&error))
}

// === impl DockerRuntime ===

impl DockerRuntime {
    /// Connects, and makes what all pods share: the network and our own images.
    pub(crate) async fn open(config: DockerConfig) -> Result<Self, RuntimeError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(RuntimeError::Unsupported(
                "capturing the pods' traffic needs root; run as root or choose the process runtime".into(),
            ));
        }
        capture::find_tool()?;
        let (docker, version) = connect().await?;
        let labels = Labels::new(&cluster_dir(&config.data_dir)?);
        let network = network::ensure(&docker, &labels).await?;
        let images = OwnImages::ensure(&docker, &config.weft_binary, config.proxy_binary.as_deref()).await?;
        let (changes, _) = broadcast::channel(1024);
        let watch = tokio::spawn(watch::run(docker.clone(), labels.clone(), changes.clone()));
        let shared = Shared {
            docker,
            config,
            labels,
            version,
            network,
            images,
            captured: Mutex::default(),
            changes,
            _watch: AbortOnDropHandle::new(watch),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    async fn capture(&self, id: &str, pid: i32) -> Result<(), RuntimeError> {
        if self.shared.captured.lock().contains(id) {
            return Ok(());
        }
        let rules = capture::Rules { gateway: self.shared.network.gateway, dns_port: self.dns_port() };
        let applied = tokio::task::spawn_blocking(move || capture::apply(pid, &rules)).await;
        applied.map_err(|error| RuntimeError::Failed(error.to_string()))??;
        self.shared.captured.lock().insert(id.to_owned());
        Ok(())
    }

    fn dns_port(&self) -> Option<u16> {
        self.shared.config.dns_address.map(|address| address.port())
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn version(&self) -> String {
        format!("docker://{}", self.shared.version)
    }

    fn traffic(&self) -> TrafficMode {
        TrafficMode::Redirect
    }

    fn control_address(&self, control: &AdsAddress) -> AdsAddress {
        let local = match control.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || ip.is_unspecified(),
            Err(_) => control.host == "localhost",
        };
        let host = if local { self.shared.network.gateway.to_string() } else { control.host.clone() };
        AdsAddress { host, port: control.port }
    }

    fn enforces_limits(&self) -> bool {
        true
    }

    fn mounts_at(&self, _target: &Path) -> bool {
        true
    }

    fn changes(&self) -> broadcast::Receiver<PodUid> {
        self.shared.changes.subscribe()
    }

    async fn health(&self) -> Result<(), RuntimeError> {
        self.shared.docker.ping().await.map(drop).map_err(engine::error)
    }

    async fn pods(&self) -> Result<Vec<PodRef>, RuntimeError> {
        let listed = engine::list(&self.shared.docker, &[self.shared.labels.cluster_filter()]).await?;
        let mut seen = HashSet::new();
        Ok(listed.iter().filter_map(engine::pod_of).filter(|pod| seen.insert(pod.uid.clone())).collect())
    }

    async fn ensure_sandbox(&self, pod: &PodRef, sidecar: bool) -> Result<Sandbox, RuntimeError> {
        if let Some(sandbox) = self.sandbox(pod).await? {
            return Ok(sandbox);
        }
        let shared = &self.shared;
        let name = shared.labels.sandbox_name(&pod.uid);
        // One that does not work any more has the name, and nothing in it is worth keeping.
        engine::remove(&shared.docker, &name).await?;
        let body = containers::sandbox(&shared.labels, pod, sidecar, &shared.network.name, &shared.images);
        engine::create_and_start(&shared.docker, &name, body).await?;
        let sandbox = self.sandbox(pod).await?;
        sandbox.ok_or_else(|| RuntimeError::Failed("the pod's sandbox ended at once".into()))
    }

    async fn sandbox(&self, pod: &PodRef) -> Result<Option<Sandbox>, RuntimeError> {
        let shared = &self.shared;
        let name = shared.labels.sandbox_name(&pod.uid);
        let Some(found) = engine::inspect(&shared.docker, &name).await? else { return Ok(None) };
        let Some(running) = engine::running_sandbox(&found, &shared.network.name) else { return Ok(None) };
        if running.sidecar {
            self.capture(&running.id, running.pid).await?;
        }
        Ok(Some(Sandbox { pod: pod.clone(), pod_ip: running.ip, sidecar_ip: running.ip, handle: running.id }))
    }

    async fn remove_pod(&self, uid: &PodUid) -> Result<(), RuntimeError> {
        let filters = [self.shared.labels.cluster_filter(), engine::pod_filter(uid)];
        let (sandboxes, others): (Vec<_>, Vec<_>) =
            engine::list(&self.shared.docker, &filters).await?.into_iter().partition(engine::is_sandbox);
        for summary in others.iter().chain(&sandboxes) {
            if let Some(id) = &summary.id {
                engine::remove(&self.shared.docker, id).await?;
                self.shared.captured.lock().remove(id);
            }
        }
        Ok(())
    }

    async fn containers(&self, uid: &PodUid) -> Result<Vec<Container>, RuntimeError> {
        let filters = [self.shared.labels.cluster_filter(), engine::pod_filter(uid)];
        let mut found = Vec::new();
        for summary in engine::list(&self.shared.docker, &filters).await? {
            let Some(id) = summary.id.as_ref().filter(|_| !engine::is_sandbox(&summary)) else { continue };
            // It may be removed between the two questions.
            if let Some(inspected) = engine::inspect(&self.shared.docker, id).await? {
                found.extend(containers::record(uid, &inspected));
            }
        }
        Ok(found)
    }

    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        pulling: &(dyn Fn() + Sync),
    ) -> Result<Image, ImageError> {
        if let Some(own) = super::own_image(image) {
            return Ok(self.shared.images.image(image, own));
        }
        images::ensure(&self.shared.docker, image, policy, pulling).await
    }

    async fn start(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<Container, RuntimeError> {
        let shared = &self.shared;
        let name = shared.labels.container_name(&sandbox.pod.uid, spec.role, &spec.name, spec.attempt);
        if let Some(found) = engine::inspect(&shared.docker, &name).await? {
            if let Some(container) = containers::record(&sandbox.pod.uid, &found) {
                return Ok(container);
            }
            // Created by an agent that was killed before it could start it.
            engine::remove(&shared.docker, &name).await?;
        }
        let resolver = match shared.config.dns_address {
            Some(_) => Some(network::write_resolver(
                &shared.config.data_dir,
                &sandbox.pod.namespace,
                &shared.config.cluster_domain,
                shared.network.gateway,
            )?),
            None => None,
        };
        let body = containers::body(&shared.labels, sandbox, spec, resolver.as_deref());
        engine::create_and_start(&shared.docker, &name, body).await?;
        let found = engine::inspect(&shared.docker, &name).await?;
        found
            .and_then(|found| containers::record(&sandbox.pod.uid, &found))
            .ok_or_else(|| RuntimeError::Failed("the container is gone right after its start".into()))
    }

    async fn stop(&self, container: &Container) -> Result<(), RuntimeError> {
        engine::signal(&self.shared.docker, containers::engine_id(container), "SIGTERM").await
    }

    async fn kill(&self, container: &Container) -> Result<(), RuntimeError> {
        let id = containers::engine_id(container);
        engine::signal(&self.shared.docker, id, "SIGKILL").await?;
        engine::wait_until_ended(&self.shared.docker, id).await
    }

    async fn remove(&self, container: &Container) -> Result<(), RuntimeError> {
        engine::remove(&self.shared.docker, containers::engine_id(container)).await
    }

    async fn exec(
        &self,
        container: &Container,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        let run = engine::exec(&self.shared.docker, containers::engine_id(container), command);
        tokio::time::timeout(timeout, run).await.map_err(|_| RuntimeError::ExecTimeout(timeout))?
    }

    async fn connect(&self, sandbox: &Sandbox, port: u16) -> io::Result<TcpStream> {
        let found = engine::inspect(&self.shared.docker, &sandbox.handle).await.map_err(io::Error::other)?;
        let running = found.and_then(|found| engine::running_sandbox(&found, &self.shared.network.name));
        let running = running.ok_or_else(|| io::Error::other("the pod's sandbox is gone"))?;
        let address = SocketAddr::from((running.ip, port));
        let connected =
            tokio::task::spawn_blocking(move || capture::connect_inside(running.pid, address, CONNECT)).await;
        let stream = connected.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }

    async fn logs(&self, container: &Container, options: LogOptions) -> Result<LogStream, RuntimeError> {
        Ok(logs::stream(&self.shared.docker, containers::engine_id(container), options))
    }

    async fn usage(&self, uid: &PodUid) -> Result<Vec<Usage>, RuntimeError> {
        let mut usages = Vec::new();
        for container in self.containers(uid).await? {
            if let ContainerState::Running { started_at } = container.state
                && let Some((cpu_seconds, working_set_bytes)) =
                    engine::usage(&self.shared.docker, containers::engine_id(&container)).await?
            {
                let (name, role) = (container.name, container.role);
                usages.push(Usage { container: name, role, started_at, cpu_seconds, working_set_bytes });
            }
        }
        Ok(usages)
    }

    async fn remove_shared(&self) -> Result<(), RuntimeError> {
        network::remove(&self.shared.docker, &self.shared.network.name).await
    }
}

async fn connect() -> Result<(Docker, String), RuntimeError> {
    let docker = Docker::connect_with_unix_defaults().map_err(engine::error)?;
    let docker = docker.negotiate_version().await.map_err(engine::error)?;
    let version = docker.version().await.map_err(engine::error)?;
    let api = version.api_version.unwrap_or_default();
    let name = version.version.unwrap_or_else(|| "unknown".into());
    if parse_api(&api).is_none_or(|api| api < MIN_API) {
        return Err(RuntimeError::Unsupported(format!(
            "Docker Engine {name} is too old; 20.10 or newer is needed"
        )));
    }
    Ok((docker, name))
}

fn parse_api(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn cluster_dir(data_dir: &Path) -> Result<PathBuf, RuntimeError> {
    let failed = |error| RuntimeError::io(format!("use {}", data_dir.display()))(error);
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    data_dir
        .canonicalize()
        .map_err(|error| RuntimeError::io(format!("resolve {}", data_dir.display()))(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_api("1.41") >= Some(MIN_API));
        assert!(parse_api("1.100") > Some(MIN_API));
        assert!(parse_api("1.40") < Some(MIN_API));
        assert_eq!(parse_api("new"), None);
    }
}
