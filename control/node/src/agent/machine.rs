//! What this machine is and has.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;

use crate::proc;

/// Capacity and identity, read once; pressure, read whenever asked.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) hostname: String,
    pub(super) cpus: u64,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) kernel: String,
    pub(super) os_image: String,
    pub(super) boot_id: String,
    pub(super) machine_id: String,
    data_dir: PathBuf,
}

/// Least free memory before the node says that it is short of it (kubelet: 100 MiB).
const MEMORY_LOW: u64 = 100 << 20;
/// Least free part of the disk, in percent (kubelet: 10).
const DISK_LOW_PERCENT: u64 = 10;

// === impl Machine ===

impl Machine {
    pub(super) fn read(data_dir: &Path) -> Self {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let uname = nix::sys::utsname::uname().ok();
        let kernel = uname.as_ref().map(|uname| uname.release().to_string_lossy().into_owned());
        let hostname = uname.as_ref().map(|uname| uname.nodename().to_string_lossy().into_owned());
        let os_image = fs::read_to_string("/etc/os-release").ok().and_then(|text| pretty_name(&text));
        Self {
            hostname: hostname.unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: proc::meminfo("MemTotal").unwrap_or(0),
            disk: disk(data_dir).map_or(0, |(total, _)| total),
            kernel: kernel.unwrap_or_default(),
            os_image: os_image.unwrap_or_else(|| "Linux".into()),
            boot_id: file("/proc/sys/kernel/random/boot_id"),
            machine_id: file("/etc/machine-id"),
            data_dir: data_dir.to_owned(),
        }
    }

    pub(super) fn cpu_millis(&self) -> u64 {
        self.cpus * 1000
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory
    }

    pub(super) fn is_short_of_memory(&self) -> bool {
        proc::meminfo("MemAvailable").is_some_and(|available| available < MEMORY_LOW)
    }

    pub(super) fn is_short_of_disk(&self) -> bool {
        disk(&self.data_dir)
            .is_some_and(|(total, free)| total > 0 && free / (total / 100).max(1) < DISK_LOW_PERCENT)
    }
}

/// Go's names for architectures, which Kubernetes' labels use.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The address to announce for something that listens on `bound`: itself, or if that means "all", the one from which
/// the default route leaves. No packet is sent.
pub(super) fn address_of(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    let routed = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        // An address reserved for documentation: any that is not local will do.
        socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    routed().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Total and free bytes of the file system.
#[expect(clippy::useless_conversion, reason = "the fields' types differ between architectures")]
fn disk(path: &Path) -> Option<(u64, u64)> {
    let stat = statvfs(path).ok()?;
    let size = u64::from(stat.fragment_size());
    Some((u64::from(stat.blocks()) * size, u64::from(stat.blocks_available()) * size))
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_system_is_unquoted() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(pretty_name("ID=x\n"), None);
    }

    #[test]
    fn a_bound_address_is_announced_as_it_is() {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
        assert_eq!(address_of(address), address);
        assert!(!address_of(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).is_unspecified());
    }

    #[test]
    fn this_machine_has_processors_memory_and_a_disk() {
        let machine = Machine::read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory > 0 && machine.disk > 0);
    }
}
