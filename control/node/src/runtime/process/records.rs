//! The runtime's files: `STATE/UID/pod.json` and `STATE/UID/containers/ROLE.NAME/ATTEMPT/…`.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::super::{Container, ContainerState, PodRef, PodUid, Role, RuntimeError};
use crate::shim::spec::{
    EXIT_FILE, Exited, LOG_FILE, SPEC_FILE, STATE_FILE, ShimSpec, Started, read, write_atomically,
};

/// All of them.
#[derive(Debug)]
pub(super) struct Records {
    root: PathBuf,
}

/// A pod's network, as kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SandboxRecord {
    pub(super) pod: PodRef,
    pub(super) pod_ip: Ipv4Addr,
}

/// The directory of one instance of a container.
#[derive(Debug, Clone)]
pub(super) struct ContainerDir {
    path: PathBuf,
}

/// What an instance is, whatever became of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) pod: PodUid,
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) attempt: u32,
    pub(super) image: String,
    pub(super) image_id: String,
}

const META_FILE: &str = "meta.json";
const POD_FILE: &str = "pod.json";
const CONTAINERS: &str = "containers";

// === impl Records ===

impl Records {
    pub(super) fn open(root: &Path) -> Result<Self, RuntimeError> {
        fs::create_dir_all(root).map_err(RuntimeError::io(format!("create {}", root.display())))?;
        // Containers' working directories may differ from ours, so their paths must be whole.
        let root = root.canonicalize().map_err(RuntimeError::io(format!("resolve {}", root.display())))?;
        Ok(Self { root })
    }

    pub(super) fn pods(&self) -> Result<Vec<PodRef>, RuntimeError> {
        let mut pods = Vec::new();
        for name in names(&self.root)? {
            let Some(uid) = PodUid::new(&name) else { continue };
            match self.sandbox(&uid)? {
                Some(record) => pods.push(record.pod),
                // Half made or half removed; whoever asks for leftovers removes it by its uid.
                None => pods.push(PodRef { uid, namespace: String::new(), name: String::new() }),
            }
        }
        Ok(pods)
    }

    pub(super) fn sandbox(&self, uid: &PodUid) -> Result<Option<SandboxRecord>, RuntimeError> {
        let path = self.root.join(uid.as_str()).join(POD_FILE);
        read(&path).map_err(RuntimeError::io(format!("read {}", path.display())))
    }

    pub(super) fn create_sandbox(&self, pod: &PodRef, pod_ip: Ipv4Addr) -> Result<(), RuntimeError> {
        let directory = self.root.join(pod.uid.as_str());
        fs::create_dir_all(&directory)
            .map_err(RuntimeError::io(format!("create {}", directory.display())))?;
        write_atomically(&directory.join(POD_FILE), &SandboxRecord { pod: pod.clone(), pod_ip })
            .map_err(RuntimeError::io("write a pod's record"))
    }

    pub(super) fn remove_pod(&self, uid: &PodUid) -> Result<(), RuntimeError> {
        remove_dir(&self.root.join(uid.as_str()))
    }

    pub(super) fn container_dir(&self, uid: &PodUid, role: Role, name: &str, attempt: u32) -> ContainerDir {
        let role = match role {
            Role::App => "app",
            Role::Init => "init",
            Role::Sidecar => "sidecar",
        };
        let path = self.root.join(uid.as_str()).join(CONTAINERS).join(format!("{role}.{name}"));
        ContainerDir { path: path.join(attempt.to_string()) }
    }

    pub(super) fn container_dirs(&self, uid: &PodUid) -> Result<Vec<ContainerDir>, RuntimeError> {
        let containers = self.root.join(uid.as_str()).join(CONTAINERS);
        let mut found = Vec::new();
        for container in names(&containers)? {
            let path = containers.join(container);
            found.extend(names(&path)?.into_iter().map(|attempt| ContainerDir { path: path.join(attempt) }));
        }
        Ok(found)
    }
}

// === impl ContainerDir ===

impl ContainerDir {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn exit_path(&self) -> PathBuf {
        self.path.join(EXIT_FILE)
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.path.join(LOG_FILE)
    }

    pub(super) fn spec_path(&self) -> PathBuf {
        self.path.join(SPEC_FILE)
    }

    pub(super) fn meta(&self) -> Result<Option<Meta>, RuntimeError> {
        self.read(META_FILE)
    }

    pub(super) fn started(&self) -> Result<Option<Started>, RuntimeError> {
        self.read(STATE_FILE)
    }

    pub(super) fn exited(&self) -> Result<Option<Exited>, RuntimeError> {
        self.read(EXIT_FILE)
    }

    pub(super) fn shim_spec(&self) -> Result<Option<ShimSpec>, RuntimeError> {
        self.read(SPEC_FILE)
    }

    pub(super) fn create(&self, meta: &Meta) -> Result<(), RuntimeError> {
        fs::create_dir_all(&self.path)
            .map_err(RuntimeError::io(format!("create {}", self.path.display())))?;
        write_atomically(&self.path.join(META_FILE), meta)
            .map_err(RuntimeError::io("write a container's record"))
    }

    pub(super) fn write_spec(&self, spec: &ShimSpec) -> Result<(), RuntimeError> {
        write_atomically(&self.spec_path(), spec)
            .map_err(RuntimeError::io("write a container's specification"))
    }

    pub(super) fn remove(&self) -> Result<(), RuntimeError> {
        remove_dir(&self.path)
    }

    pub(super) fn age(&self) -> Option<Duration> {
        fs::metadata(&self.path).ok()?.modified().ok()?.elapsed().ok()
    }

    /// Name of the container's cgroup: `UID_ROLE.NAME_ATTEMPT`.
    pub(super) fn cgroup_name(&self) -> String {
        let names: Vec<_> =
            self.path.components().rev().map(|part| part.as_os_str().to_string_lossy()).take(4).collect();
        match names.as_slice() {
            [attempt, container, _, uid] => format!("{uid}_{container}_{attempt}"),
            _ => String::new(),
        }
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, file: &str) -> Result<Option<T>, RuntimeError> {
        let path = self.path.join(file);
        match read(&path) {
            // An empty or half file is what a power failure leaves; its container cannot have survived that.
            Err(error)
                if error.kind() == io::ErrorKind::InvalidData
                    || error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                tracing::warn!(path = %path.display(), %error, "ignoring a damaged record");
                Ok(None)
            }
            other => other.map_err(RuntimeError::io(format!("read {}", path.display()))),
        }
    }
}

// === impl Meta ===

impl Meta {
    pub(super) fn container(&self, state: ContainerState) -> Container {
        Container {
            pod: self.pod.clone(),
            name: self.name.clone(),
            role: self.role,
            attempt: self.attempt,
            id: format!("process://{}-{}-{}", self.pod, self.name, self.attempt),
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            state,
        }
    }
}

fn names(directory: &Path) -> Result<Vec<String>, RuntimeError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RuntimeError::io(format!("list {}", directory.display()))(error)),
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

fn remove_dir(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}
