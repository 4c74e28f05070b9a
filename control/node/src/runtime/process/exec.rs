//! Commands in a container: probes and hooks.

use std::{os::unix::process::ExitStatusExt as _, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{
    runtime::{EXEC_OUTPUT, ExecOutcome, RuntimeError},
    shim::spec::ShimSpec,
};

/// Runs `command` as the container of `spec` would: same environment, directory and user.
pub(super) async fn run(
    spec: &ShimSpec,
    command: &[String],
    timeout: Duration,
) -> Result<ExecOutcome, RuntimeError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(RuntimeError::Unsupported("the command is empty".into()));
    };
    let mut process = tokio::process::Command::new(program);
    process
        .args(arguments)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(directory) = &spec.working_dir {
        process.current_dir(directory);
    }
    if let Some(gid) = spec.gid {
        process.gid(gid);
    }
    if let Some(uid) = spec.uid {
        process.uid(uid);
    }
    let mut child = process.spawn().map_err(RuntimeError::io(format!("start {program:?}")))?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let finished = async {
        let (output, errors, status) = tokio::join!(capture(stdout), capture(stderr), child.wait());
        (output + &errors, status)
    };
    let finished = tokio::time::timeout(timeout, finished).await;
    // What the command left in the background must not outlive it: nobody would ever end it.
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let (output, status) = finished.map_err(|_| RuntimeError::ExecTimeout(timeout))?;
    let status = status.map_err(RuntimeError::io(format!("wait for {program:?}")))?;
    let exit_code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExecOutcome { exit_code, output })
}

/// The beginning of what is printed; the rest is read, so that the command does not block, and dropped.
async fn capture(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read.min(EXEC_OUTPUT - kept.len())]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
