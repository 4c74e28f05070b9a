//! Process trees, from `/proc`.

use std::{collections::HashMap, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::proc::{self, Stat};

/// How often killing is repeated. Each round also catches what was forked during the one before; a process that the
/// kernel holds in a system call may need several.
const ROUNDS: u32 = 500;
const ROUND_PAUSE: Duration = Duration::from_millis(10);

/// Start time of a process in clock ticks since boot.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    proc::stat(pid).map(|stat| stat.start_ticks)
}

/// Kills every descendant of `root`, which must be this process, and reaps them until none is left.
pub(super) fn kill_descendants(root: u32) {
    for _ in 0..ROUNDS {
        kill_descendants_once(root);
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                // No child at all: being their subreaper, we would have inherited any that is left.
                Err(Errno::ECHILD) => return,
                Ok(nix::sys::wait::WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        std::thread::sleep(ROUND_PAUSE);
    }
}

/// Sends SIGKILL to every descendant of `root`.
pub(crate) fn kill_descendants_once(root: u32) {
    for stat in descendants(root, &proc::all()) {
        if let Ok(pid) = i32::try_from(stat.pid) {
            // It may have ended since; that is what we want.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// All processes below `root`, itself not included.
pub(crate) fn descendants(root: u32, all: &[Stat]) -> Vec<Stat> {
    let mut children: HashMap<u32, Vec<&Stat>> = HashMap::new();
    for stat in all {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        // Taking the list out keeps a cycle, which pids used again during the reading could make, from looping.
        for stat in children.remove(&parent).unwrap_or_default() {
            open.push(stat.pid);
            found.push(stat.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Stat {
        Stat { pid, parent, ..Stat::default() }
    }

    #[test]
    fn descendants_are_found_at_every_depth_and_no_others() {
        let all = [process(2, 1), process(3, 2), process(4, 3), process(5, 1)];
        let mut found: Vec<u32> = descendants(2, &all).into_iter().map(|stat| stat.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
    }

    #[test]
    fn a_cycle_ends() {
        let all = [process(2, 3), process(3, 2)];
        assert_eq!(descendants(2, &all).len(), 2);
    }

    #[test]
    fn our_own_start_time_is_known() {
        assert!(start_ticks(std::process::id()).is_some_and(|ticks| ticks > 0));
    }
}
