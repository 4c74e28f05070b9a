//! CPU and memory limits, where control groups can be written (as root; version 1 or 2).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::runtime::Limits;

/// Where containers' groups are made.
#[derive(Debug, Clone)]
pub(super) enum Cgroups {
    /// One hierarchy for everything.
    V2 { root: PathBuf },
    /// One per controller.
    V1 { cpu: PathBuf, memory: PathBuf },
}

/// Length of the period for which a CPU quota holds; Linux' and Kubernetes' default.
const PERIOD_MICROS: u64 = 100_000;
/// The least quota that the kernel accepts.
const MIN_QUOTA_MICROS: u64 = 1_000;
const MOUNT: &str = "/sys/fs/cgroup";
const OWN: &str = "weft";

// === impl Cgroups ===

impl Cgroups {
    /// Finds out what this machine lets us do; `None`: no limits.
    pub(super) fn detect() -> Option<Self> {
        let mount = Path::new(MOUNT);
        let cgroups = if mount.join("cgroup.controllers").exists() {
            Self::V2 { root: mount.join(OWN) }
        } else {
            Self::V1 { cpu: mount.join("cpu").join(OWN), memory: mount.join("memory").join(OWN) }
        };
        cgroups.prepare().ok().map(|()| cgroups)
    }

    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::V2 { root } => {
                fs::write(Path::new(MOUNT).join("cgroup.subtree_control"), "+cpu +memory")?;
                create(root)?;
                fs::write(root.join("cgroup.subtree_control"), "+cpu +memory")
            }
            Self::V1 { cpu, memory } => {
                create(cpu)?;
                create(memory)
            }
        }
    }

    /// Makes the groups of a container, with its limits; none if it has no limits.
    pub(super) fn create(&self, name: &str, limits: &Limits) -> io::Result<Vec<PathBuf>> {
        if *limits == Limits::default() {
            return Ok(Vec::new());
        }
        // The root may have been removed as empty by another agent of this machine.
        self.prepare()?;
        let groups = self.groups(name);
        for group in &groups {
            create(group)?;
        }
        match self {
            Self::V2 { .. } => {
                let group = &groups[0];
                if let Some(millis) = limits.cpu_millis {
                    fs::write(group.join("cpu.max"), format!("{} {PERIOD_MICROS}", quota(millis)))?;
                }
                if let Some(millis) = limits.cpu_request_millis {
                    fs::write(group.join("cpu.weight"), weight(millis).to_string())?;
                }
                if let Some(bytes) = limits.memory_bytes {
                    fs::write(group.join("memory.max"), bytes.to_string())?;
                }
            }
            Self::V1 { .. } => {
                if let Some(millis) = limits.cpu_millis {
                    fs::write(groups[0].join("cpu.cfs_period_us"), PERIOD_MICROS.to_string())?;
                    fs::write(groups[0].join("cpu.cfs_quota_us"), quota(millis).to_string())?;
                }
                if let Some(millis) = limits.cpu_request_millis {
                    fs::write(groups[0].join("cpu.shares"), shares(millis).to_string())?;
                }
                if let Some(bytes) = limits.memory_bytes {
                    fs::write(groups[1].join("memory.limit_in_bytes"), bytes.to_string())?;
                }
            }
        }
        Ok(groups)
    }

    /// Whether the kernel killed a process of the group for want of memory.
    pub(super) fn was_oom_killed(&self, name: &str) -> bool {
        let file = match self {
            Self::V2 { root } => root.join(name).join("memory.events"),
            Self::V1 { memory, .. } => memory.join(name).join("memory.oom_control"),
        };
        fs::read_to_string(file).is_ok_and(|text| oom_kills(&text) > 0)
    }

    /// Removes a container's groups, which are empty once its processes are gone.
    pub(super) fn remove(&self, name: &str) {
        for group in self.groups(name) {
            // Absent for containers without limits.
            let _ = fs::remove_dir(group);
        }
    }

    /// Removes the directories above the containers', if no other agent has any left there.
    pub(super) fn remove_root(&self) {
        match self {
            Self::V2 { root } => drop(fs::remove_dir(root)),
            Self::V1 { cpu, memory } => {
                let _ = fs::remove_dir(cpu);
                let _ = fs::remove_dir(memory);
            }
        }
    }

    fn groups(&self, name: &str) -> Vec<PathBuf> {
        match self {
            Self::V2 { root } => vec![root.join(name)],
            Self::V1 { cpu, memory } => vec![cpu.join(name), memory.join(name)],
        }
    }
}

fn create(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn quota(cpu_millis: u64) -> u64 {
    cpu_millis.saturating_mul(PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS)
}

/// As Kubernetes: 1024 shares per processor.
fn shares(cpu_millis: u64) -> u64 {
    (cpu_millis.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

/// The same share on the scale of version 2, by Kubernetes' formula.
fn weight(cpu_millis: u64) -> u64 {
    1 + (shares(cpu_millis) - 2) * 9999 / 262_142
}

fn oom_kills(text: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_and_shares_follow_kubernetes() {
        assert_eq!(quota(1500), 150_000);
        assert_eq!(quota(1), MIN_QUOTA_MICROS);
        assert_eq!(shares(100), 102);
        assert_eq!(shares(0), 2);
        assert_eq!(weight(1000), 39);
    }

    #[test]
    fn kills_are_counted_in_both_versions_files() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n"), 2);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
        assert_eq!(oom_kills(""), 0);
    }
}
