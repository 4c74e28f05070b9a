//! What `/proc` tells about processes and the machine.

use std::fs;

/// One process, from `/proc/PID/stat`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    /// One letter: R, S, D, Z …
    pub(crate) state: char,
    /// CPU time of the process and of its ended and waited-for children, in clock ticks.
    pub(crate) cpu_ticks: u64,
    /// Start time in clock ticks since boot; with the pid it names a process for good.
    pub(crate) start_ticks: u64,
    /// Resident memory in pages.
    pub(crate) resident_pages: u64,
}

/// Clock ticks per second in `/proc`: a constant of Linux's user-space ABI on every architecture that we build for.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes per page in `/proc/PID/stat`.
pub(crate) fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

/// One process; `None` if there is none with this number.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether the process with this number is the one that started then, and not a zombie.
pub(crate) fn is_alive(pid: u32, start_ticks: u64) -> bool {
    stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks && !matches!(stat.state, 'Z' | 'X'))
}

/// Every process that we can see.
pub(crate) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(stat).collect()
}

/// A value in kB of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(key: &str) -> Option<u64> {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// CPU time that all processors spent working since boot, in seconds.
pub(crate) fn node_cpu_seconds() -> Option<f64> {
    parse_node_cpu(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name is in parentheses and may contain anything, parentheses and spaces included.
    let (pid, rest) = text.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        pid: pid.trim().parse().ok()?,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        // utime, stime, cutime, cstime
        cpu_ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        start_ticks: number(19)?,
        resident_pages: number(21)?,
    })
}

fn parse_meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn parse_node_cpu(text: &str) -> Option<f64> {
    let fields: Vec<u64> =
        text.lines().next()?.split_ascii_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are within user.
    let busy = |index: usize| fields.get(index).copied().unwrap_or(0);
    let ticks = busy(0) + busy(1) + busy(2) + busy(5) + busy(6) + busy(7);
    (fields.len() >= 4).then(|| seconds(ticks))
}

/// Clock ticks as seconds.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 ticks, some three million CPU years")]
pub(crate) fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194560 100 0 0 0 5 6 1 2 20 0 1 0 123456 1000000 250 18446744073709551615";
        let stat = parse_stat(text).expect("parses");
        assert_eq!(
            stat,
            Stat { pid: 42, parent: 7, state: 'S', cpu_ticks: 14, start_ticks: 123_456, resident_pages: 250 }
        );
    }

    #[test]
    fn truncated_or_foreign_text_is_no_process() {
        for text in ["", "42", "42 (a) S", "x (a) S 7"] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
    }

    #[test]
    fn memory_is_read_in_bytes_and_by_the_whole_key() {
        let text = "MemTotalX:  1 kB\nMemTotal:       2048 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(parse_meminfo(text, "MemTotal"), Some(2 * 1024 * 1024));
        assert_eq!(parse_meminfo(text, "SwapTotal"), None);
    }

    #[test]
    fn idle_time_is_not_counted_as_work() {
        let seconds = parse_node_cpu("cpu  100 0 100 9999 50 0 0 0 7 0\ncpu0 …\n").expect("parses");
        assert!((seconds - 2.0).abs() < 1e-9);
    }
}
