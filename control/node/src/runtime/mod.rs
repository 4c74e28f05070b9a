//! What starts and stops containers. The agent decides; a runtime does, and remembers by itself.
//!
//! # Contract
//! * A runtime's own records (state files, container labels) are canonical for what runs. The agent keeps no list of
//!   containers: after a restart it asks and finds everything.
//! * Every operation may be repeated. Creating what exists returns it, removing what is gone succeeds.
//! * Whatever changes by itself (a container ends, the Engine comes back) is told through [`Runtime::changes`]; a
//!   message may be lost, which the agent's periodic look makes good.

pub(crate) mod docker;
mod image;
pub(crate) mod process;

use std::{
    fmt, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, sync::broadcast};
use weft_api::mesh::TrafficMode;

pub(crate) use self::image::{OwnImage, PullPolicy, own_image};
use crate::{config::AdsAddress, logs::LogOptions};

/// Starts, stops and shows containers; see the [module](self).
#[async_trait]
pub(crate) trait Runtime: Send + Sync + fmt::Debug {
    /// Name and version as Node.status.nodeInfo shows it, such as `docker://20.10.24`.
    fn version(&self) -> String;

    /// How the traffic of its pods reaches their sidecars.
    fn traffic(&self) -> TrafficMode;

    /// The mesh control service as the sidecars of this runtime reach it.
    fn control_address(&self, control: &AdsAddress) -> AdsAddress;

    /// Whether CPU and memory limits hold.
    fn enforces_limits(&self) -> bool;

    /// Whether a container sees a volume at this path.
    fn mounts_at(&self, target: &Path) -> bool;

    /// Uids of pods where something changed.
    fn changes(&self) -> broadcast::Receiver<PodUid>;

    /// Whether containers can be started at all now.
    async fn health(&self) -> Result<(), RuntimeError>;

    /// Every pod of which anything exists here, its files and network included.
    async fn pods(&self) -> Result<Vec<PodRef>, RuntimeError>;

    /// Makes the pod's network, or returns the one that it has. Without a sidecar its traffic is left alone.
    async fn ensure_sandbox(&self, pod: &PodRef, sidecar: bool) -> Result<Sandbox, RuntimeError>;

    /// The pod's network if it has one that works.
    async fn sandbox(&self, pod: &PodRef) -> Result<Option<Sandbox>, RuntimeError>;

    /// Kills what is left of a pod and removes every trace of it but its files below the agent's directory.
    async fn remove_pod(&self, uid: &PodUid) -> Result<(), RuntimeError>;

    /// All instances of all containers of a pod that still have a record, in no particular order.
    async fn containers(&self, uid: &PodUid) -> Result<Vec<Container>, RuntimeError>;

    /// Makes sure that an image is there; `pulling` is called before a download starts.
    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        pulling: &(dyn Fn() + Sync),
    ) -> Result<Image, ImageError>;

    /// Starts a container. An error means that no process of it exists.
    async fn start(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<Container, RuntimeError>;

    /// Asks a container to stop.
    async fn stop(&self, container: &Container) -> Result<(), RuntimeError>;

    /// Kills every process of a container.
    async fn kill(&self, container: &Container) -> Result<(), RuntimeError>;

    /// Forgets a container that has ended, with its logs.
    async fn remove(&self, container: &Container) -> Result<(), RuntimeError>;

    /// Runs a command in a container and waits for its end, at most for `timeout`.
    async fn exec(
        &self,
        container: &Container,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutcome, RuntimeError>;

    /// Connects to a port of the pod without passing its sidecar, so that a probe asks the container itself.
    async fn connect(&self, sandbox: &Sandbox, port: u16) -> io::Result<TcpStream>;

    /// A container's log, as the options ask for it.
    async fn logs(&self, container: &Container, options: LogOptions) -> Result<LogStream, RuntimeError>;

    /// What a pod's running containers use now.
    async fn usage(&self, uid: &PodUid) -> Result<Vec<Usage>, RuntimeError>;

    /// Removes what the runtime made for all pods together; to be called when no pod is left.
    async fn remove_shared(&self) -> Result<(), RuntimeError>;
}

/// Chunks of a log.
pub(crate) type LogStream = BoxStream<'static, Result<Bytes, io::Error>>;

/// A pod's uid: what names it for good, as names are used again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct PodUid(Arc<str>);

/// A pod as runtimes know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRef {
    pub(crate) uid: PodUid,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A pod's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) pod: PodRef,
    /// Where the pod's containers are reached.
    pub(crate) pod_ip: Ipv4Addr,
    /// Where its sidecar is reached; the same as `pod_ip` when they share a network namespace.
    pub(crate) sidecar_ip: Ipv4Addr,
    /// The runtime's own name for it.
    pub(crate) handle: String,
}

/// What a container is to the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// One of `spec.containers`.
    App,
    /// One of `spec.initContainers`.
    Init,
    /// The proxy, which the pod's author did not write.
    Sidecar,
}

/// One instance of a container to be started.
#[derive(Debug, Clone)]
pub(crate) struct ContainerSpec {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Number of the instance: how often the container was started before.
    pub(crate) attempt: u32,
    pub(crate) image: Image,
    /// Replaces the image's entry point; Kubernetes' `command`.
    pub(crate) command: Vec<String>,
    /// Kubernetes' `args`.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) limits: Limits,
    pub(crate) security: Security,
}

/// A directory or file of this machine that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// Bounds that the kernel enforces; `None`: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) cpu_millis: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    /// Share of the processor under contention, from the request.
    pub(crate) cpu_request_millis: Option<u64>,
}

/// The parts of a security context that runtimes apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) privileged: bool,
    pub(crate) read_only_root: bool,
    pub(crate) add_capabilities: Vec<String>,
    pub(crate) drop_capabilities: Vec<String>,
}

/// An image that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// As the pod names it.
    pub(crate) name: String,
    /// What it is for sure; `status.containerStatuses[].imageID`.
    pub(crate) id: String,
    /// Entry point that the runtime gives to an image of ours, unless the pod replaces it.
    pub(crate) entrypoint: Vec<String>,
    /// What to tell the user about where it came from.
    pub(crate) origin: ImageOrigin,
}

/// Where an image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageOrigin {
    /// It was there, or nothing needs to be there.
    Present,
    /// It was downloaded just now.
    Pulled(Duration),
}

/// One instance of a container that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) pod: PodUid,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) attempt: u32,
    /// With the runtime's scheme, such as `docker://0123…`.
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) state: ContainerState,
}

/// What an instance is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerState {
    /// It has processes.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It has none, and never will again.
    Exited(Exit),
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    /// Why it could not be started, or was lost.
    pub(crate) error: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
}

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecOutcome {
    pub(crate) exit_code: i32,
    /// The beginning of what it printed.
    pub(crate) output: String,
}

/// What one container uses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Usage {
    pub(crate) container: String,
    pub(crate) role: Role,
    pub(crate) started_at: Timestamp,
    /// Since the container's start.
    pub(crate) cpu_seconds: f64,
    pub(crate) working_set_bytes: u64,
}

/// A runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// The pod asks for something that this runtime cannot give. Trying again is of no use.
    #[error("{0}")]
    Unsupported(String),
    /// The runtime itself does not answer.
    #[error("the container runtime is not reachable: {0}")]
    Unavailable(String),
    /// It answered that it cannot.
    #[error("{0}")]
    Failed(String),
    /// A file or process of this machine is in the way.
    #[error("cannot {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    /// The command in a container took too long.
    #[error("command timed out after {0:?}")]
    ExecTimeout(Duration),
}

/// An image is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The name is none.
    #[error("{0:?} is not a valid image name")]
    InvalidName(String),
    /// It is absent, and the policy forbids to get it.
    #[error("container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    /// It could not be downloaded.
    #[error("failed to pull image {image:?}: {reason}")]
    Pull { image: String, reason: String },
    /// The runtime failed before it came to that.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Length at which the output of a command in a container is cut; it ends up in events.
pub(crate) const EXEC_OUTPUT: usize = 4096;

// === impl RuntimeError ===

impl RuntimeError {
    /// For `map_err`: what was tried.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action: action.into(), source }
    }
}

// === impl PodUid ===

impl PodUid {
    /// `None` if the text cannot be a file name, as a uid that the API server made always can.
    pub(crate) fn new(uid: &str) -> Option<Self> {
        let plain = !uid.is_empty()
            && uid.len() <= 128
            && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        plain.then(|| Self(uid.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl PodRef ===

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Container ===

impl Container {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    pub(crate) fn exit(&self) -> Option<&Exit> {
        match &self.state {
            ContainerState::Exited(exit) => Some(exit),
            ContainerState::Running { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_that_would_leave_its_directory_is_refused() {
        for uid in ["", "..", "../x", "a/b", "a\0b"] {
            assert_eq!(PodUid::new(uid), None, "{uid:?}");
        }
        assert!(PodUid::new("4a1f2c9e-0b1d-4a4e-9d0e-6a7b8c9d0e1f").is_some());
    }
}
