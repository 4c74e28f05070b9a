//! The program itself, as a process.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::raw;

/// A running `weft-proxy`; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) admin: SocketAddr,
    _folder: TempDir,
}

impl Process {
    /// Starts the program with this bootstrap and an admin address, and waits until it is ready.
    pub(crate) async fn start(bootstrap: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (config, address) = (folder.path().join("bootstrap.yaml"), folder.path().join("admin"));
        let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
        let mut file = std::fs::File::create(&config).expect("a file");
        write!(file, "{admin}{bootstrap}").expect("writes");
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-proxy"))
            .arg("--config-path")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&address)
            .args(["--concurrency", "1"])
            .args(arguments)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program starts");
        let deadline = Instant::now() + Duration::from_secs(30);
        let admin = loop {
            let text = std::fs::read_to_string(&address).unwrap_or_default();
            if let Ok(admin) = text.trim().parse() {
                break admin;
            }
            assert!(Instant::now() < deadline, "no admin address");
            assert!(child.try_wait().expect("a child").is_none(), "the program ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Self { child, admin, _folder: folder }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("sends");
    }

    /// Waits for the end; the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the program does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Where the only listener listens.
    pub(crate) async fn listener(&self) -> SocketAddr {
        let answer = raw(self.admin, "GET /listeners HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let line = answer.lines().find_map(|line| line.split_once("::")).expect("a listener");
        line.1.trim().parse().expect("an address")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
