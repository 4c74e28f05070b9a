//! How much memory there is, and how much of it is used.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::manager::Monitor;

/// What this process holds for itself, against a fixed number.
///
/// The number is the resident anonymous memory (`RssAnon`): what the process could give back only by ending. Files that
/// are mapped, its own code among them, do not count.
pub(crate) struct FixedHeap {
    pub(crate) max: u64,
}

/// What the control group of this process uses, against its limit.
///
/// Pages of files that the kernel would drop first (`inactive_file`) do not count as used, so that a busy access log is
/// no reason to shed. Where groups above have limits too, the fullest decides.
pub(crate) struct CgroupMemory {
    groups: Vec<Group>,
    /// Counts as the limit where it is lower.
    max: Option<u64>,
}

/// The files of one group.
struct Group {
    usage: PathBuf,
    limit: PathBuf,
    stat: PathBuf,
    inactive: &'static str,
}

/// Version 1 says "no limit" with a number near the largest.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes that `/proc/self/status` says under `name`.
pub(crate) fn of_process(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("/proc/self/status has no {name}")))
}

// === impl FixedHeap ===

impl Monitor for FixedHeap {
    fn pressure(&mut self) -> io::Result<f64> {
        Ok(of_process("RssAnon")? as f64 / self.max as f64)
    }
}

// === impl CgroupMemory ===

impl CgroupMemory {
    /// For the groups of this process; `None` if nothing limits it.
    pub(crate) fn of_process(max: Option<u64>) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        Self::find(&groups, Path::new("/sys/fs/cgroup"), max)
    }

    /// For the groups that the text of a `/proc/…/cgroup` names, below `root`.
    fn find(text: &str, root: &Path, max: Option<u64>) -> Option<Self> {
        let (folder, names, version_1) = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            match (fields.next()?, fields.next()?, fields.next()?) {
                ("0", "", path) if root.join("cgroup.controllers").exists() => {
                    Some((root.to_owned(), path, false))
                }
                (_, controllers, path) if controllers.split(',').any(|name| name == "memory") => {
                    Some((root.join("memory"), path, true))
                }
                _ => None,
            }
        })?;
        let groups: Vec<Group> = Path::new(names)
            .ancestors()
            .map(|path| folder.join(path.strip_prefix("/").unwrap_or(path)))
            .map(|path| Group::at(&path, version_1))
            .filter(|group| group.limit().is_some() || (max.is_some() && group.usage.exists()))
            .collect();
        // With a limit of the configuration the innermost group is the one that is meant.
        (!groups.is_empty()).then_some(Self { groups, max })
    }

    /// The lowest limit.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.groups.iter().filter_map(Group::limit).chain(self.max).min()
    }
}

impl Monitor for CgroupMemory {
    fn pressure(&mut self) -> io::Result<f64> {
        let mut highest: f64 = 0.0;
        for (index, group) in self.groups.iter().enumerate() {
            let max = self.max.filter(|_| index == 0);
            let Some(limit) = group.limit().into_iter().chain(max).min() else { continue };
            highest = highest.max(group.used()? as f64 / limit.max(1) as f64);
        }
        Ok(highest)
    }
}

// === impl Group ===

impl Group {
    fn at(path: &Path, version_1: bool) -> Self {
        let (usage, limit, inactive) = if version_1 {
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
        } else {
            ("memory.current", "memory.max", "inactive_file")
        };
        Self { usage: path.join(usage), limit: path.join(limit), stat: path.join("memory.stat"), inactive }
    }

    /// `None` is without limit.
    fn limit(&self) -> Option<u64> {
        let limit = fs::read_to_string(&self.limit).ok()?.trim().parse::<u64>().ok()?;
        Some(limit).filter(|limit| *limit < NO_LIMIT)
    }

    fn used(&self) -> io::Result<u64> {
        let usage = fs::read_to_string(&self.usage)?;
        let usage = usage.trim().parse::<u64>().map_err(io::Error::other)?;
        let stat = fs::read_to_string(&self.stat).unwrap_or_default();
        let inactive = stat
            .lines()
            .find_map(|line| line.strip_prefix(self.inactive)?.trim().parse::<u64>().ok())
            .unwrap_or(0);
        Ok(usage.saturating_sub(inactive))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).expect("a folder");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("a file");
        }
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let own = of_process("RssAnon").expect("a number");
        assert!(own > 0 && own <= of_process("VmRSS").expect("a number"));
        assert!(FixedHeap { max: own * 4 }.pressure().expect("a number") < 1.0);
        assert!(FixedHeap { max: 1 }.pressure().expect("a number") > 1.0);
    }

    #[test]
    fn the_fullest_group_of_version_2_decides() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), &[("cgroup.controllers", "memory")]);
        put(
            &root.path().join("pod"),
            &[
                ("memory.max", "1000"),
                ("memory.current", "900"),
                ("memory.stat", "anon 1\ninactive_file 100\n"),
            ],
        );
        put(&root.path().join("pod/app"), &[("memory.max", "max"), ("memory.current", "900")]);
        let mut monitor = CgroupMemory::find("0::/pod/app\n", root.path(), None).expect("limited");
        assert_eq!(monitor.pressure().expect("a number"), 0.8);
        assert_eq!(monitor.limit(), Some(1000));
        let mut lower = CgroupMemory::find("0::/pod/app\n", root.path(), Some(950)).expect("limited");
        assert!((lower.pressure().expect("a number") - 900.0 / 950.0).abs() < 1e-9);
    }

    #[test]
    fn version_1_is_read_as_well() {
        let root = tempfile::tempdir().expect("a folder");
        put(
            &root.path().join("memory/app"),
            &[
                ("memory.limit_in_bytes", "1000"),
                ("memory.usage_in_bytes", "500"),
                ("memory.stat", "total_inactive_file 250\n"),
            ],
        );
        let mut monitor = CgroupMemory::find("5:cpu:/\n4:memory:/app\n", root.path(), None).expect("limited");
        assert_eq!(monitor.pressure().expect("a number"), 0.25);
    }

    #[test]
    fn without_a_limit_there_is_nothing_to_watch() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), &[("cgroup.controllers", "memory")]);
        put(&root.path().join("app"), &[("memory.max", "max"), ("memory.current", "900")]);
        assert!(CgroupMemory::find("0::/app\n", root.path(), None).is_none());
        let old = [("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "5")];
        put(&root.path().join("memory/app"), &old);
        assert!(CgroupMemory::find("4:memory:/app\n", root.path(), None).is_none());
    }
}
