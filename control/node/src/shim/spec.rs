//! The files by which agent and shim talk: the specification, the state and the exit file.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// What one shim is to run. All its files live in `directory`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShimSpec {
    /// The container's directory.
    pub(crate) directory: PathBuf,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub(crate) env: Vec<(String, String)>,
    /// Where the program starts.
    pub(crate) working_dir: Option<PathBuf>,
    /// User to run as; `None`: the agent's.
    pub(crate) uid: Option<u32>,
    /// Group to run as.
    pub(crate) gid: Option<u32>,
    /// cgroup directories to enter, one per hierarchy.
    pub(crate) cgroups: Vec<PathBuf>,
    /// Bind mounts, made in a mount namespace of the container's own.
    pub(crate) mounts: Vec<BindMount>,
    /// Number of the signal that asks the program to stop.
    pub(crate) stop_signal: i32,
    /// Size at which a log file is rotated.
    pub(crate) log_max_bytes: u64,
    /// Log files kept, the current one included.
    pub(crate) log_max_files: u32,
}

/// One directory or file made visible elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BindMount {
    /// What is shown.
    pub(crate) source: PathBuf,
    /// Where; must exist.
    pub(crate) target: PathBuf,
    /// Whether writing there fails.
    pub(crate) read_only: bool,
}

/// State file: the container was started. A pid without its start time is worthless, as numbers are used again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Started {
    pub(crate) shim_pid: u32,
    /// In clock ticks since boot, from `/proc/PID/stat`.
    pub(crate) shim_start: u64,
    /// The container's first process, which leads its process group.
    pub(crate) pid: u32,
    pub(crate) pid_start: u64,
    pub(crate) started_at: jiff::Timestamp,
}

/// Exit file: the container has ended, or never started.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Exited {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    /// Why the command could not be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    pub(crate) started_at: Option<jiff::Timestamp>,
    pub(crate) finished_at: jiff::Timestamp,
}

// === impl ShimSpec ===

impl ShimSpec {
    pub(crate) fn state_path(&self) -> PathBuf {
        self.directory.join(STATE_FILE)
    }

    pub(crate) fn exit_path(&self) -> PathBuf {
        self.directory.join(EXIT_FILE)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.directory.join(LOG_FILE)
    }
}

/// Writes `value` as JSON so that a reader sees the whole of it or nothing.
pub(crate) fn write_atomically<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, path)
}

/// Reads what [`write_atomically`] wrote; `None` if there is no such file.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) const SPEC_FILE: &str = "spec.json";
pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const EXIT_FILE: &str = "exit.json";
pub(crate) const LOG_FILE: &str = "log";
