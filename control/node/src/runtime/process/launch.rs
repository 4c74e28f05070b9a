//! Starting a shim.

use std::{path::PathBuf, process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use super::{
    ProcessRuntime, can_mount_at,
    records::{ContainerDir, Meta},
};
use crate::{
    runtime::{Container, ContainerSpec, ContainerState, Mount, RuntimeError, Sandbox},
    shim::spec::{BindMount, Exited, ShimSpec, Started},
};

/// How long a shim may take from its start to its first word. It does nothing that takes long; a machine in trouble does.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// 50 MiB of logs per container at most.
const LOG_MAX_BYTES: u64 = 10 << 20;
const LOG_MAX_FILES: u32 = 5;

impl ProcessRuntime {
    pub(super) async fn launch(
        &self,
        sandbox: &Sandbox,
        spec: &ContainerSpec,
    ) -> Result<Container, RuntimeError> {
        let records = &self.shared.records;
        let directory = records.container_dir(&sandbox.pod.uid, spec.role, &spec.name, spec.attempt);
        if let Some(existing) = self.read(&directory)? {
            return Ok(existing);
        }
        check(spec)?;
        let argv = argv(spec)?;
        let meta = Meta {
            pod: sandbox.pod.uid.clone(),
            name: spec.name.clone(),
            role: spec.role,
            attempt: spec.attempt,
            image: spec.image.name.clone(),
            image_id: spec.image.id.clone(),
        };
        let cgroups = match &self.shared.cgroups {
            Some(cgroups) => cgroups
                .create(&directory.cgroup_name(), &spec.limits)
                .map_err(RuntimeError::io(format!("set the limits of container {}", spec.name)))?,
            None => Vec::new(),
        };
        let shim_spec = ShimSpec {
            directory: directory.path().to_owned(),
            argv,
            env: environment(spec, sandbox),
            working_dir: spec.working_dir.clone().map(PathBuf::from),
            uid: spec.security.user,
            gid: spec.security.group,
            cgroups,
            mounts: spec.mounts.iter().filter(|mount| can_mount_at(&mount.target)).map(bind_mount).collect(),
            stop_signal: Signal::SIGTERM as i32,
            log_max_bytes: LOG_MAX_BYTES,
            log_max_files: LOG_MAX_FILES,
        };
        self.shared.starting.lock().insert(directory.path().to_owned());
        let result = self.spawn(&directory, &meta, &shim_spec).await;
        self.shared.starting.lock().remove(directory.path());
        if result.is_err() {
            let _ = directory.remove();
        }
        result
    }

    async fn spawn(
        &self,
        directory: &ContainerDir,
        meta: &Meta,
        spec: &ShimSpec,
    ) -> Result<Container, RuntimeError> {
        directory.create(meta)?;
        directory.write_spec(spec)?;
        let errors = std::fs::File::create(directory.path().join("shim.log"))
            .map_err(RuntimeError::io("create the shim's log"))?;
        let mut command = tokio::process::Command::new(&self.shared.config.weft_binary);
        command
            .arg("shim")
            .arg(directory.spec_path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(errors));
        let mut child = command
            .spawn()
            .map_err(RuntimeError::io(format!("start {}", self.shared.config.weft_binary.display())))?;
        let stdout = child.stdout.take();
        let (changes, uid) = (self.shared.changes.clone(), meta.pod.clone());
        self.shared.waits.spawn(async move {
            if let Err(error) = child.wait().await {
                tracing::warn!(%error, "cannot wait for a shim");
            }
            let _ = changes.send(uid);
        });
        match first_word(stdout).await {
            Some(FirstWord::Started(started)) => {
                Ok(meta.container(ContainerState::Running { started_at: started.started_at }))
            }
            Some(FirstWord::Exited(exited)) => Ok(self.exited(directory, meta, exited)),
            None => {
                let log = std::fs::read_to_string(directory.path().join("shim.log")).unwrap_or_default();
                Err(RuntimeError::Failed(format!("the shim did not start the container: {}", log.trim())))
            }
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum FirstWord {
    Started(Started),
    Exited(Exited),
}

async fn first_word(stdout: Option<impl AsyncRead + Unpin>) -> Option<FirstWord> {
    let mut line = String::new();
    let mut reader = BufReader::new(stdout?);
    let read = tokio::time::timeout(START_PATIENCE, reader.read_line(&mut line)).await;
    read.ok()?.ok()?;
    serde_json::from_str(&line).ok()
}

/// Refuses what a process of this machine cannot have, rather than leaving it out in silence.
fn check(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    let unsupported = |what: &str| {
        Err(RuntimeError::Unsupported(format!(
            "the process runtime does not support {what}; use the docker runtime"
        )))
    };
    if spec.security.privileged {
        return unsupported("securityContext.privileged");
    }
    if spec.security.read_only_root {
        return unsupported("securityContext.readOnlyRootFilesystem");
    }
    if !spec.security.add_capabilities.is_empty() {
        return unsupported("securityContext.capabilities.add");
    }
    let other_user = spec.security.user.is_some_and(|uid| uid != nix::unistd::geteuid().as_raw());
    if other_user && !nix::unistd::geteuid().is_root() {
        return unsupported("securityContext.runAsUser without root");
    }
    Ok(())
}

fn argv(spec: &ContainerSpec) -> Result<Vec<String>, RuntimeError> {
    let head = if spec.command.is_empty() { &spec.image.entrypoint } else { &spec.command };
    if head.is_empty() {
        return Err(RuntimeError::Unsupported(format!(
            "the process runtime cannot run image {:?}: it runs programs of this machine, so name one in `command`, or \
             use the docker runtime",
            spec.image.name
        )));
    }
    Ok(head.iter().chain(&spec.args).cloned().collect())
}

/// What images of containers bring along: a search path, a home. The pod's own variables win.
fn environment(spec: &ContainerSpec, sandbox: &Sandbox) -> Vec<(String, String)> {
    let inherited = ["PATH", "HOME", "TMPDIR", "LANG", "TZ"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let hostname = ("HOSTNAME".to_owned(), sandbox.pod.name.clone());
    let own = |name: &str| spec.env.iter().any(|(other, _)| other == name);
    let base = inherited.chain([hostname]).filter(|(name, _)| !own(name));
    base.chain(spec.env.iter().cloned()).collect()
}

fn bind_mount(mount: &Mount) -> BindMount {
    BindMount { source: mount.source.clone(), target: mount.target.clone(), read_only: mount.read_only }
}
