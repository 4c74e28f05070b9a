//! nginx and HAProxy, as servers behind the proxy and as proxies before it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{process, wait};

/// A running server; ended, with the processes that it started, when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    directory: TempDir,
    _port: HeldPort,
}

/// A port for programs that cannot say which one the kernel gave them: bound, not listening, so that nothing else is given
/// it while this lives. Programs that set `SO_REUSEADDR` or `SO_REUSEPORT`, as servers do, may open it by its number.
#[derive(Debug)]
pub struct HeldPort {
    /// On loopback.
    pub address: SocketAddr,
    _socket: Socket,
}

// === impl HeldPort ===

impl HeldPort {
    /// One of the kernel's choice.
    pub fn bind() -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).context("no socket")?;
        socket.set_reuse_address(true).context("an option")?;
        socket.set_reuse_port(true).context("an option")?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).context("no free port")?;
        let address = socket.local_addr().context("it is bound")?.as_socket().context("it is IPv4")?;
        Ok(Self { address, _socket: socket })
    }
}

// === impl Server ===

impl Server {
    /// nginx with this content of its `http` block; `$LISTEN` stands for its address and `$FILES` for a directory of
    /// files, which `files` fills.
    pub async fn nginx(http: &str, files: &[(&str, &[u8])]) -> anyhow::Result<Self> {
        let binary = process::find("nginx", "nginx-light")?;
        let (directory, port) = prepare("nginx", files)?;
        let at = directory.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {at}/{name};\n"))
            .concat();
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {at}/pid; error_log {at}/log warn;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_max_body_size 0; {temporary}\n{http}\n}}\n"
        );
        let mut command = Command::new(binary);
        command.arg("-p").arg(directory.path()).arg("-c").arg(directory.path().join("config"));
        Self::start(command, directory, port, &config).await
    }

    /// HAProxy with this configuration after the usual timeouts; `$LISTEN` stands for its address.
    pub async fn haproxy(config: &str) -> anyhow::Result<Self> {
        let binary = process::find("haproxy", "haproxy")?;
        let (directory, port) = prepare("haproxy", &[])?;
        let config = format!(
            "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n{config}\n"
        );
        let mut command = Command::new(binary);
        command.arg("-f").arg(directory.path().join("config"));
        Self::start(command, directory, port, &config).await
    }

    async fn start(
        mut command: Command,
        directory: TempDir,
        port: HeldPort,
        config: &str,
    ) -> anyhow::Result<Self> {
        let address = port.address;
        let files = directory.path().join("files");
        let config =
            config.replace("$LISTEN", &address.to_string()).replace("$FILES", &files.to_string_lossy());
        fs::write(directory.path().join("config"), config).context("cannot write the configuration")?;
        let output = fs::File::create(directory.path().join("output")).context("cannot create a file")?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.as_std()))?;
        let server = Self { address, child, directory, _port: port };
        wait::wait_for("the server listens", wait::LONG, || async {
            let said = fs::read_to_string(server.directory.path().join("output")).unwrap_or_default();
            Ok(TcpStream::connect(address).await.map(drop).map_err(|error| format!("{error}: {said}")))
        })
        .await?;
        Ok(server)
    }

    /// `http://ADDRESS`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id() {
            for pid in process::with_descendants(vec![pid]) {
                process::send(pid, Signal::SIGTERM).ok();
            }
        }
    }
}

fn prepare(name: &str, files: &[(&str, &[u8])]) -> anyhow::Result<(TempDir, HeldPort)> {
    let directory = tempfile::Builder::new().prefix(&format!("weft-test-{name}-")).tempdir()?;
    let place = directory.path().join("files");
    fs::create_dir(&place).context("cannot create a directory")?;
    for (name, content) in files {
        fs::write(place.join(Path::new(name)), content).context("cannot write a file")?;
    }
    Ok((directory, HeldPort::bind()?))
}
