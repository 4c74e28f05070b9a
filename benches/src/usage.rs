//! What a process and its children used, from `/proc`.

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
}

/// One process as `/proc/PID/stat` tells it.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
    pages: u64,
}

/// The process `root` and everything below it: nginx works in a child, a wrapper script starts the real program.
pub fn of_tree(root: u32) -> anyhow::Result<Usage> {
    let all = all()?;
    let per_second = positive(SysconfVar::CLK_TCK)?;
    let page_kb = positive(SysconfVar::PAGE_SIZE)? / 1024;
    let mut usage = Usage::default();
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        pending.extend(all.iter().filter(|(_, stat)| stat.parent == pid).map(|(child, _)| *child));
        if let Some(stat) = all.get(&pid) {
            usage.cpu += Duration::from_nanos(stat.ticks.saturating_mul(1_000_000_000 / per_second));
            usage.resident_kb += stat.pages * page_kb;
        }
    }
    Ok(usage)
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
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)?,
        pages: number(21)?,
    })
}

fn positive(name: SysconfVar) -> anyhow::Result<u64> {
    let value = sysconf(name).context("sysconf failed")?.context("the system does not tell")?;
    Ok(u64::try_from(value)?.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 3 7 7 0 -1 4194560 1 2 3 4 50 60 0 0 20 0 1 0 100 1000000 777 18446744073709551615";
        assert_eq!(parse(stat), Some(Stat { parent: 3, ticks: 110, pages: 777 }));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(of_tree(std::process::id()).expect("we are there").resident_kb > 0);
    }
}
