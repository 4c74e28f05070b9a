//! Which ports this start listens on.
//!
//! Sidecars and the user's kubeconfig outlive a control process that was killed, so a restart must come back at the
//! same addresses: they are remembered in the data directory.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::cli::UpArgs;

/// Where free ports are looked for: below the kernel's ephemeral range, since a client that keeps connecting to a
/// port of that range on loopback, while nobody listens, ends up connected to itself; and below the gateway's ports.
const FREE_PORTS: std::ops::Range<u16> = 10_240..19_999;

const FILE: &str = "ports.json";

/// The addresses of one start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    pub(super) api: SocketAddr,
    pub(super) xds: SocketAddr,
    pub(super) dns: SocketAddr,
    pub(super) metrics: SocketAddr,
}

/// Chooses one address after the other.
#[derive(Debug, Default)]
struct Chooser {
    /// Nobody listens there yet, but they are spoken for.
    chosen: Vec<SocketAddr>,
}

/// Whether UDP must be free as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    TcpAndUdp,
}

// === impl Ports ===

impl Ports {
    /// Chooses addresses that are free at this moment.
    pub(super) fn choose(args: &UpArgs, data_dir: &Path) -> anyhow::Result<Self> {
        let last = Self::load(data_dir)?;
        let last = last.as_ref();
        let mut chooser = Chooser::default();
        let (tcp, both) = (Transport::Tcp, Transport::TcpAndUdp);
        Ok(Self {
            api: chooser.choose("--api-listen", args.api_listen, last.map(|it| it.api), 6443, tcp)?,
            xds: chooser.choose("--xds-listen", args.xds_listen, last.map(|it| it.xds), 15_010, tcp)?,
            dns: chooser.choose("--dns-listen", args.dns_listen, last.map(|it| it.dns), 15_053, both)?,
            metrics: chooser.choose(
                "--metrics-listen",
                args.metrics_listen,
                last.map(|it| it.metrics),
                15_014,
                tcp,
            )?,
        })
    }

    /// Remembers them for the next start.
    pub(super) fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join(FILE);
        let text = serde_json::to_vec_pretty(self).context("cannot write the addresses as JSON")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(FILE);
        match fs::read(&path) {
            // A file that was cut short by a full disk costs the memory of the ports, not the start.
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

// === impl Chooser ===

impl Chooser {
    fn choose(
        &mut self,
        flag: &str,
        given: Option<SocketAddr>,
        last: Option<SocketAddr>,
        default: u16,
        transport: Transport,
    ) -> anyhow::Result<SocketAddr> {
        let free = |address: &SocketAddr| !self.chosen.contains(address) && is_free(*address, transport);
        let chosen = match given.filter(|address| address.port() != 0) {
            Some(address) if free(&address) => address,
            Some(address) => bail!("{flag} {address} is in use or is not an address of this machine"),
            None => {
                let ip = given.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
                let default = given.is_none().then_some(SocketAddr::new(ip, default));
                let count = FREE_PORTS.end - FREE_PORTS.start;
                let start = (spread(std::process::id()) % u32::from(count)) as u16;
                let others = (0..count).map(|step| FREE_PORTS.start + (start + step) % count);
                last.filter(|last| last.ip() == ip)
                    .into_iter()
                    .chain(default)
                    .chain(others.map(|port| SocketAddr::new(ip, port)))
                    .find(free)
                    .with_context(|| format!("{flag}: no free port on {ip}"))?
            }
        };
        self.chosen.push(chosen);
        Ok(chosen)
    }
}

/// Far from each other for process ids that are next to each other: two starts at the same moment must not walk the same
/// ports, which are free until somebody listens there.
fn spread(process: u32) -> u32 {
    process.wrapping_mul(0x9E37_79B1) >> 8
}

fn is_free(address: SocketAddr, transport: Transport) -> bool {
    TcpListener::bind(address).is_ok() && (transport == Transport::Tcp || UdpSocket::bind(address).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
    }

    #[test]
    fn a_port_that_was_asked_for_is_taken_or_refused_but_never_replaced() {
        let taken = TcpListener::bind(local(0)).unwrap();
        let address = taken.local_addr().unwrap();
        let error =
            Chooser::default().choose("--api-listen", Some(address), None, 1, Transport::Tcp).unwrap_err();
        assert!(error.to_string().contains("--api-listen"), "{error}");
    }

    #[test]
    fn the_last_port_comes_first_and_a_taken_default_is_replaced() {
        let taken = TcpListener::bind(local(0)).unwrap();
        let default = taken.local_addr().unwrap().port();
        let choose = |given, last, transport| {
            Chooser::default().choose("--x", given, last, default, transport).unwrap()
        };
        let chosen = choose(None, None, Transport::TcpAndUdp);
        assert!(FREE_PORTS.contains(&chosen.port()));
        assert_eq!(choose(None, Some(chosen), Transport::Tcp), chosen);
        assert_eq!(choose(Some(local(0)), Some(chosen), Transport::Tcp), chosen);
    }

    #[test]
    fn starts_at_the_same_moment_look_at_different_ports() {
        let count = u32::from(FREE_PORTS.end - FREE_PORTS.start);
        let mut starts: Vec<u32> = (100_000..100_016).map(|process| spread(process) % count).collect();
        starts.sort_unstable();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] > 8), "{starts:?}");
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let mut chooser = Chooser::default();
        let any = Some(local(0));
        let first = chooser.choose("--x", any, None, 1, Transport::Tcp).unwrap();
        assert_ne!(chooser.choose("--y", any, Some(first), 1, Transport::Tcp).unwrap(), first);
    }
}
