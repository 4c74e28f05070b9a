//! CPU and memory of containers, summed over their process trees.

use jiff::Timestamp;

use crate::{
    proc,
    runtime::{Role, Usage},
    shim::{descendants, spec::Started},
};

/// Usage of each of the containers; the process table is read once for all.
pub(super) fn of(running: Vec<(String, Role, Timestamp, Started)>) -> Vec<Usage> {
    if running.is_empty() {
        return Vec::new();
    }
    let all = proc::all();
    let page = proc::page_size();
    running
        .into_iter()
        .map(|(container, role, started_at, started)| {
            // The shim is every process's ancestor; what it uses itself is ours, not the container's.
            let tree = descendants(started.shim_pid, &all);
            Usage {
                container,
                role,
                started_at,
                cpu_seconds: proc::seconds(tree.iter().map(|stat| stat.cpu_ticks).sum()),
                working_set_bytes: tree.iter().map(|stat| stat.resident_pages * page).sum(),
            }
        })
        .collect()
}
