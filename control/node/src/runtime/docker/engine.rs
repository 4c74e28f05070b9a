//! Questions to the Engine, with its errors in our words.

use std::{collections::HashMap, hash::Hasher as _, net::Ipv4Addr, path::Path, time::Duration};

use bollard::{
    Docker,
    errors::Error,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerCreateBody, ContainerInspectResponse, ContainerSummary},
    query_parameters::{
        CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
        RemoveContainerOptionsBuilder, StatsOptionsBuilder,
    },
};
use futures::StreamExt as _;

use crate::runtime::{EXEC_OUTPUT, ExecOutcome, PodRef, PodUid, Role, RuntimeError};

/// Names of what belongs to one cluster.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    /// A short name derived from the data directory.
    cluster: String,
}

/// A sandbox that works.
#[derive(Debug, Clone)]
pub(super) struct RunningSandbox {
    pub(super) id: String,
    pub(super) pid: i32,
    pub(super) ip: Ipv4Addr,
    pub(super) sidecar: bool,
}

pub(super) const CLUSTER: &str = "weft.dev/cluster";
pub(super) const POD_UID: &str = "weft.dev/pod-uid";
pub(super) const POD_NAMESPACE: &str = "weft.dev/pod-namespace";
pub(super) const POD_NAME: &str = "weft.dev/pod-name";
pub(super) const ROLE: &str = "weft.dev/role";
pub(super) const CONTAINER: &str = "weft.dev/container";
pub(super) const ATTEMPT: &str = "weft.dev/attempt";
pub(super) const IMAGE: &str = "weft.dev/image";
/// On a sandbox: whether its traffic goes through a sidecar.
pub(super) const SIDECAR: &str = "weft.dev/sidecar";
/// Value of [`ROLE`] for sandboxes.
pub(super) const SANDBOX: &str = "sandbox";

/// How long a killed container may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

// === impl Labels ===

impl Labels {
    pub(super) fn new(data_dir: &Path) -> Self {
        #[expect(
            deprecated,
            reason = "the only hasher of std whose output is the same in every process and release"
        )]
        let mut hasher = std::hash::SipHasher::new();
        hasher.write(data_dir.as_os_str().as_encoded_bytes());
        Self { cluster: format!("{:08x}", hasher.finish() & 0xffff_ffff) }
    }

    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(super) fn cluster_filter(&self) -> String {
        format!("{CLUSTER}={}", self.cluster)
    }

    pub(super) fn network_name(&self) -> String {
        format!("weft-{}", self.cluster)
    }

    pub(super) fn sandbox_name(&self, uid: &PodUid) -> String {
        format!("weft-{}-{uid}-{SANDBOX}", self.cluster)
    }

    pub(super) fn container_name(&self, uid: &PodUid, role: Role, name: &str, attempt: u32) -> String {
        format!("weft-{}-{uid}-{}-{name}-{attempt}", self.cluster, role_name(role))
    }

    pub(super) fn of_pod(&self, pod: &PodRef) -> HashMap<String, String> {
        HashMap::from([
            (CLUSTER.to_owned(), self.cluster.clone()),
            (POD_UID.to_owned(), pod.uid.to_string()),
            (POD_NAMESPACE.to_owned(), pod.namespace.clone()),
            (POD_NAME.to_owned(), pod.name.clone()),
        ])
    }
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::App => "app",
        Role::Init => "init",
        Role::Sidecar => "sidecar",
    }
}

pub(super) fn role_of(name: &str) -> Option<Role> {
    [Role::App, Role::Init, Role::Sidecar].into_iter().find(|role| role_name(*role) == name)
}

pub(super) fn pod_filter(uid: &PodUid) -> String {
    format!("{POD_UID}={uid}")
}

pub(super) fn is_sandbox(summary: &ContainerSummary) -> bool {
    label(summary, ROLE) == Some(SANDBOX)
}

pub(super) fn pod_of(summary: &ContainerSummary) -> Option<PodRef> {
    Some(PodRef {
        uid: PodUid::new(label(summary, POD_UID)?)?,
        namespace: label(summary, POD_NAMESPACE)?.to_owned(),
        name: label(summary, POD_NAME)?.to_owned(),
    })
}

fn label<'a>(summary: &'a ContainerSummary, key: &str) -> Option<&'a str> {
    summary.labels.as_ref()?.get(key).map(String::as_str)
}

/// All containers with these labels, ended ones included.
pub(super) async fn list(docker: &Docker, labels: &[String]) -> Result<Vec<ContainerSummary>, RuntimeError> {
    let filters = HashMap::from([("label".to_owned(), labels.to_vec())]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    docker.list_containers(Some(options)).await.map_err(error)
}

/// A container by name or id; `None` if there is none.
pub(super) async fn inspect(
    docker: &Docker,
    name: &str,
) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
    match docker.inspect_container(name, None).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(other) => Err(error(other)),
    }
}

pub(super) fn running_sandbox(found: &ContainerInspectResponse, network: &str) -> Option<RunningSandbox> {
    let state = found.state.as_ref()?;
    if state.running != Some(true) {
        return None;
    }
    let networks = found.network_settings.as_ref()?.networks.as_ref()?;
    Some(RunningSandbox {
        id: found.id.clone()?,
        pid: i32::try_from(state.pid?).ok().filter(|pid| *pid > 0)?,
        ip: networks.get(network)?.ip_address.as_ref()?.parse().ok()?,
        sidecar: found.config.as_ref()?.labels.as_ref()?.get(SIDECAR).is_some_and(|value| value == "true"),
    })
}

/// Creates a container and starts it; if it cannot be started it is removed.
pub(super) async fn create_and_start(
    docker: &Docker,
    name: &str,
    body: ContainerCreateBody,
) -> Result<(), RuntimeError> {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let created = docker.create_container(Some(options), body).await.map_err(error)?;
    if let Err(start_error) = docker.start_container(&created.id, None).await.map_err(error) {
        if let Err(remove_error) = remove(docker, &created.id).await {
            tracing::warn!(
                error = weft_kit::error::chain(&remove_error),
                "cannot remove a container that did not start"
            );
        }
        return Err(start_error);
    }
    Ok(())
}

/// Kills and removes a container, with its anonymous volumes; that it is gone already is no error.
pub(super) async fn remove(docker: &Docker, name: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match docker.remove_container(name, Some(options)).await {
        // 409: somebody else is removing it at this moment.
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        Err(other) => Err(error(other)),
    }
}

/// Signals a container's first process; that it has ended already is no error.
pub(super) async fn signal(docker: &Docker, id: &str, signal: &str) -> Result<(), RuntimeError> {
    let options = KillContainerOptionsBuilder::default().signal(signal).build();
    match docker.kill_container(id, Some(options)).await {
        Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        Err(other) => Err(error(other)),
    }
}

pub(super) async fn wait_until_ended(docker: &Docker, id: &str) -> Result<(), RuntimeError> {
    let deadline = tokio::time::Instant::now() + KILL_PATIENCE;
    loop {
        let found = inspect(docker, id).await?;
        let running = found.and_then(|found| found.state).is_some_and(|state| state.running == Some(true));
        if !running {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(RuntimeError::Failed(format!("container {id} does not end")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn exec(docker: &Docker, id: &str, command: &[String]) -> Result<ExecOutcome, RuntimeError> {
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(command.to_vec()),
        ..CreateExecOptions::default()
    };
    let created = docker.create_exec(id, options).await.map_err(error)?;
    let mut kept = Vec::new();
    if let StartExecResults::Attached { mut output, .. } =
        docker.start_exec(&created.id, None).await.map_err(error)?
    {
        while let Some(chunk) = output.next().await {
            let chunk = chunk.map_err(error)?.into_bytes();
            let room = EXEC_OUTPUT - kept.len();
            kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
    }
    let ended = docker.inspect_exec(&created.id).await.map_err(error)?;
    let exit_code = ended.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(-1);
    Ok(ExecOutcome { exit_code, output: String::from_utf8_lossy(&kept).into_owned() })
}

/// CPU seconds since the start and working set in bytes; `None` if the container ended meanwhile.
pub(super) async fn usage(docker: &Docker, id: &str) -> Result<Option<(f64, u64)>, RuntimeError> {
    let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
    let stats = match Box::pin(docker.stats(id, Some(options))).next().await {
        Some(Ok(stats)) => stats,
        None | Some(Err(Error::DockerResponseServerError { status_code: 404 | 409, .. })) => return Ok(None),
        Some(Err(other)) => return Err(error(other)),
    };
    let nanos = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage);
    let memory = stats.memory_stats.and_then(|memory| {
        let details = memory.stats.unwrap_or_default();
        // What the kernel could drop at once does not count; the name differs between cgroup versions.
        let inactive = details.get("total_inactive_file").or_else(|| details.get("inactive_file")).copied();
        Some(memory.usage?.saturating_sub(inactive.unwrap_or(0)))
    });
    let (Some(nanos), Some(memory)) = (nanos, memory) else { return Ok(None) };
    Ok(Some((Duration::from_nanos(nanos).as_secs_f64(), memory)))
}

/// Tells an Engine that is away from one that says no.
pub(super) fn error(error: Error) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { message, .. } => RuntimeError::Failed(message),
        Error::DockerStreamError { error } => RuntimeError::Failed(error),
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => {
            RuntimeError::Failed(format!("the Docker Engine's answer is not understood: {error}"))
        }
        other => RuntimeError::Unavailable(format!("Docker Engine: {}", weft_kit::error::chain(&other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_different_directories_have_different_names() {
        let (a, b) = (Labels::new(Path::new("/a")), Labels::new(Path::new("/b")));
        assert_ne!(a.network_name(), b.network_name());
        assert_eq!(a.network_name(), Labels::new(Path::new("/a")).network_name());
        // Linux cuts interface names at 15 characters.
        assert!(a.network_name().len() <= 15);
    }

    #[test]
    fn roles_survive_as_labels() {
        for role in [Role::App, Role::Init, Role::Sidecar] {
            assert_eq!(role_of(role_name(role)), Some(role));
        }
        assert_eq!(role_of(SANDBOX), None);
    }
}
