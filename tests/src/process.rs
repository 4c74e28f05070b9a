//! Processes, seen through `/proc` and ended by their ids only.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Command;

/// Where `name` is on PATH; the error names the Debian package.
pub fn find(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps daemons where only root's PATH looks.
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not on PATH (Debian package {package})"))
}

/// Runs to the end and gives standard output; a failure is an error with everything it said.
pub async fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command).await?;
    if !output.status.success() {
        bail!("{:?} ended with {}:\n{}", command.as_std(), output.status, text(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, however it ends.
pub async fn output(command: &mut Command) -> anyhow::Result<Output> {
    command.kill_on_drop(true).output().await.with_context(|| format!("cannot run {:?}", command.as_std()))
}

/// Both streams of a finished process, for people.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Sends `signal` to one process; that it is gone already is no error.
pub fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid).context("no process id is that large")?);
    match kill(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot send {signal} to {pid}")),
    }
}

/// Every process whose command line or environment names `path`, but for this one and its threads: what a cluster
/// with that data directory started.
pub fn mentioning(path: &Path) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Readable only for our own processes, which are the ones that we could have started.
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let command_line = read("cmdline");
        let mentions = |bytes: &[u8]| {
            let path = path.as_os_str().as_bytes();
            bytes.windows(path.len()).any(|window| window == path)
        };
        // A zombie has neither; it holds nothing and its parent will reap it.
        if pid != own && (mentions(&command_line) || mentions(&read("environ"))) {
            let shown = String::from_utf8_lossy(&command_line).replace('\0', " ");
            found.push((pid, shown.trim().to_owned()));
        }
    }
    found
}

/// Every process that runs one of `programs`.
pub fn running(programs: &[PathBuf]) -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let runs = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| programs.contains(&exe));
    pids.filter(runs).collect()
}

/// `pids` and everything below them in the tree of processes, at this moment.
pub fn with_descendants(pids: Vec<u32>) -> BTreeSet<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return pids.into_iter().collect() };
    let all = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = all.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = BTreeSet::new();
    let mut pending = pids;
    while let Some(pid) = pending.pop() {
        if found.insert(pid) {
            pending.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        }
    }
    found
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses, which may hold anything: state, parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Resident memory of a process in kilobytes.
pub fn resident_kb(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
