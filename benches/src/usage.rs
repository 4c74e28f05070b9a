//! What a process and its children used, from `/proc`.
//!
//! CPU time is the scheduler's count of nanoseconds in every thread (`schedstat`): the clock ticks of `/proc/PID/stat` are
//! 4 ms or more, and a proxy that wakes for microseconds is charged whole ticks or none.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::Context as _;
use nix::unistd::{SysconfVar, sysconf};

/// CPU time and memory of a process tree at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time since the start.
    pub cpu: Duration,
    /// Resident memory in kilobytes; shared pages are counted once per process.
    pub resident_kb: u64,
    /// The most that was resident since the start.
    pub peak_kb: u64,
}

/// One process as `/proc/PID/stat` tells it.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

/// The process `root` and everything below it: some proxies work in a child.
pub fn of_tree(root: u32) -> anyhow::Result<Usage> {
    let all = all()?;
    let mut usage = Usage::default();
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        pending.extend(all.iter().filter(|(_, stat)| stat.parent == pid).map(|(child, _)| *child));
        if let Some(stat) = all.get(&pid) {
            usage.cpu += cpu_of_threads(pid).map_or_else(|| ticks(stat.ticks), Ok)?;
            usage.resident_kb += field(pid, "smaps_rollup", "Rss:").unwrap_or(0);
            usage.peak_kb += field(pid, "status", "VmHWM:").unwrap_or(0);
        }
    }
    Ok(usage)
}

/// The first number of `schedstat` is the time on a CPU in nanoseconds. Threads that ended are not in it: none of the
/// proxies ends threads under load.
fn cpu_of_threads(pid: u32) -> Option<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total))
}

fn ticks(count: u64) -> anyhow::Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK).context("sysconf failed")?.context("no clock ticks")?;
    Ok(Duration::from_nanos(count.saturating_mul(1_000_000_000 / u64::try_from(per_second)?.max(1))))
}

fn field(pid: u32, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

fn all() -> anyhow::Result<BTreeMap<u32, Stat>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // What ends between the listing and the reading is left out.
    let read = |pid: u32| Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?));
    Ok(pids.filter_map(read).collect())
}

fn parse(stat: &str) -> Option<Stat> {
    // The name stands in parentheses and may hold anything, parentheses and spaces too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 3 7 7 0 -1 4194560 1 2 3 4 50 60 0 0 20 0 1 0 100 1000000 777 18446744073709551615";
        assert_eq!(parse(stat), Some(Stat { parent: 3, ticks: 110 }));
    }

    #[test]
    fn this_process_uses_memory_and_has_used_more() {
        let usage = of_tree(std::process::id()).expect("we are there");
        assert!(usage.resident_kb > 0 && usage.peak_kb > 0, "{usage:?}");
    }
}
