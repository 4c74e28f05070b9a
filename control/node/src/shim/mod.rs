//! The supervisor of one container in the process runtime: one small process that outlives the agent.
//!
//! `weft shim SPEC` leads a session of its own, starts the container's command, copies what it prints into log files
//! and, when it ends, ends what it left behind and writes how it ended. It uses threads and blocking calls only: a
//! node has one per container, so it must cost next to nothing.
//!
//! # Guarantees
//! * The start is told on standard output with one line of JSON ([`Started`] or [`Exited`]), which is also in the
//!   state file by then.
//! * `exit.json` appears only when no process of the container is left and all that they printed is in the log.
//! * Descendants that leave the process group or the session are found all the same: the shim is their subreaper.
//!
//! # Signals
//! * `SIGTERM` passes the stop signal to the container's process group.
//! * `SIGUSR1` kills every process of the container.
//! * `SIGINT` and `SIGHUP`, which terminals send to whole groups, do nothing.
//!
//! # Caveats
//! * `kill -9` of the shim leaves the container's processes running with nobody to supervise them; the agent notices,
//!   kills them and starts the container again.

mod log_file;
mod pump;
pub(crate) mod spec;
mod tree;

use std::{
    io::Write as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sched::CloneFlags,
    sys::{
        prctl,
        signal::{SigSet, Signal, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use parking_lot::Mutex;

use self::{
    log_file::LogFile,
    spec::{Exited, ShimSpec, Started, write_atomically},
};
pub(crate) use self::{log_file::rotated, tree::descendants, tree::kill_descendants_once as kill_tree};

/// How long the shim waits, after the last process is gone, for the end of its output. Only a process that inherited
/// the pipe and was let go by the kernel late can make it wait.
const OUTPUT_END: Duration = Duration::from_secs(2);

/// Body of the hidden `weft shim SPEC` subcommand. To be called first thing in `main`, while the process has one thread.
pub fn shim_main(spec: &Path) -> ExitCode {
    match supervise(spec) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft shim: {}", weft_kit::error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Body of the hidden `weft pause` subcommand: waits for a signal. It holds a pod's network namespace open.
pub fn pause_main() -> ExitCode {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]);
    if signals.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match signals.wait() {
            // As process 1 of its namespace it inherits orphans.
            Ok(Signal::SIGCHLD) => while reap_one().is_some() {},
            Ok(_) => return ExitCode::SUCCESS,
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Why the shim could not do its work.
#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("cannot read the specification")]
    Spec(#[source] std::io::Error),
    #[error("the specification is not valid")]
    Parse(#[source] serde_json::Error),
    #[error("cannot {0}")]
    Setup(&'static str, #[source] nix::Error),
    #[error("cannot write {0}")]
    Write(&'static str, #[source] std::io::Error),
}

fn supervise(spec_path: &Path) -> Result<(), ShimError> {
    let text = std::fs::read(spec_path).map_err(ShimError::Spec)?;
    let spec: ShimSpec = serde_json::from_slice(&text).map_err(ShimError::Parse)?;

    // Fails only if we lead a group already, which is as good for our purpose: no terminal's signals arrive.
    let _ = nix::unistd::setsid();
    prctl::set_child_subreaper(true).map_err(|error| ShimError::Setup("become the subreaper", error))?;
    let log = LogFile::open(&spec.log_path(), spec.log_max_bytes, spec.log_max_files)
        .map_err(|error| ShimError::Write("the log", error))?;
    let log = Arc::new(Mutex::new(log));

    let started_at = jiff::Timestamp::now();
    let mut child = match isolate(&spec).and_then(|()| spawn(&spec)) {
        Ok(child) => child,
        Err(reason) => {
            let exited = Exited {
                exit_code: 128,
                signal: None,
                error: Some(reason),
                started_at: None,
                finished_at: jiff::Timestamp::now(),
            };
            announce(&exited);
            return write_atomically(&spec.exit_path(), &exited)
                .map_err(|error| ShimError::Write("the exit file", error));
        }
    };
    // Only now: a child inherits what its parent blocks, and would not hear SIGTERM. Nobody signals us before we
    // announce the start. Before the threads: a signal must not reach one that does not wait for it.
    let signals = SigSet::from_iter([
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ]);
    signals.thread_block().map_err(|error| ShimError::Setup("block signals", error))?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let started = Started {
        shim_pid: std::process::id(),
        shim_start: tree::start_ticks(std::process::id()).unwrap_or(0),
        pid: child.id(),
        pid_start: tree::start_ticks(child.id()).unwrap_or(0),
        started_at,
    };
    write_atomically(&spec.state_path(), &started)
        .map_err(|error| ShimError::Write("the state file", error))?;
    let output = pump::start(&mut child, &log);
    announce(&started);

    let status = wait_for_end(pid, &spec, &signals);
    tree::kill_descendants(std::process::id());
    output.wait(OUTPUT_END);
    let exited = Exited {
        exit_code: status.code,
        signal: status.signal,
        error: None,
        started_at: Some(started_at),
        finished_at: status.at,
    };
    write_atomically(&spec.exit_path(), &exited).map_err(|error| ShimError::Write("the exit file", error))
}

/// Enters the container's cgroups and, if it has mounts, a mount namespace with them. The command inherits both.
fn isolate(spec: &ShimSpec) -> Result<(), String> {
    for cgroup in &spec.cgroups {
        let procs = cgroup.join("cgroup.procs");
        std::fs::write(&procs, std::process::id().to_string())
            .map_err(|error| format!("cannot enter the cgroup {}: {error}", cgroup.display()))?;
    }
    if spec.mounts.is_empty() {
        return Ok(());
    }
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("cannot unshare mounts: {error}"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| format!("cannot make mounts private: {error}"))?;
    for bind in &spec.mounts {
        let failed = |error| format!("cannot mount {}: {error}", bind.target.display());
        mount(Some(&bind.source), &bind.target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(failed)?;
        if bind.read_only {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &bind.target, None::<&str>, flags, None::<&str>).map_err(failed)?;
        }
    }
    Ok(())
}

fn spawn(spec: &ShimSpec) -> Result<Child, String> {
    let Some((program, arguments)) = spec.argv.split_first() else {
        return Err("the command is empty".into());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(directory) = &spec.working_dir {
        command.current_dir(directory);
    }
    if let Some(gid) = spec.gid {
        command.gid(gid);
    }
    if let Some(uid) = spec.uid {
        command.uid(uid);
    }
    command.spawn().map_err(|error| format!("cannot start {program:?}: {error}"))
}

/// One line for the agent that waits, if it still does; afterwards standard output is let go, so that it sees an end.
fn announce<T: serde::Serialize>(message: &T) {
    if let Ok(mut line) = serde_json::to_vec(message) {
        line.push(b'\n');
        // The agent may be gone; the state file tells the next one.
        let _ = std::io::stdout().write_all(&line);
        let _ = std::io::stdout().flush();
    }
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}

struct End {
    code: i32,
    signal: Option<i32>,
    at: jiff::Timestamp,
}

/// Serves signals until the container's first process has ended.
fn wait_for_end(pid: Pid, spec: &ShimSpec, signals: &SigSet) -> End {
    let stop = Signal::try_from(spec.stop_signal).unwrap_or(Signal::SIGTERM);
    loop {
        // Also before the first signal: a command that ends at once may have sent SIGCHLD before we blocked on it.
        while let Some((ended, raw)) = reap_one() {
            if ended == pid {
                let status = std::process::ExitStatus::from_raw(raw);
                // 128 + signal is what shells and Kubernetes report for a process that a signal ended.
                let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
                return End { code, signal: status.signal(), at: jiff::Timestamp::now() };
            }
        }
        match signals.wait() {
            Ok(Signal::SIGTERM) => drop(killpg(pid, stop)),
            Ok(Signal::SIGUSR1) => tree::kill_descendants_once(std::process::id()),
            // Terminal signals are nothing to us, SIGCHLD is handled above; sigwait fails only on an invalid set.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Takes one ended child, if there is one, with its raw wait status.
fn reap_one() -> Option<(Pid, i32)> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Some((pid, (code & 0xff) << 8)),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, signal as i32)),
        _ => None,
    }
}
