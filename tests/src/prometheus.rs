//! A real Prometheus on a temporary directory.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{http, process, servers::HeldPort, wait};

/// A running server; ended and removed on drop.
#[derive(Debug)]
pub struct Prometheus {
    authority: String,
    child: Child,
    _directory: TempDir,
    _port: HeldPort,
}

/// Where Prometheus is.
pub fn find() -> anyhow::Result<PathBuf> {
    process::find("prometheus", "prometheus")
}

// === impl Prometheus ===

impl Prometheus {
    /// Scrapes control at `metrics` (`http://ADDRESS/metrics`) and what its `/targets` lists, once a second.
    pub async fn start(binary: &PathBuf, metrics: &str) -> anyhow::Result<Self> {
        let authority = metrics.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let directory = tempfile::Builder::new().prefix("weft-test-prometheus-").tempdir()?;
        let config = directory.path().join("prometheus.yml");
        fs::write(&config, configuration(authority)).context("cannot write Prometheus' configuration")?;
        let port = HeldPort::bind()?;
        let own = port.address.to_string();
        let child = Command::new(binary)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={own}"))
            .arg("--log.level=warn")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start Prometheus")?;
        let server = Self { authority: own, child, _directory: directory, _port: port };
        wait::wait_for("Prometheus is ready", wait::LONG, || async {
            Ok(match http::get(&server.url("/-/ready")).await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("status {status}: {body}")),
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await?;
        Ok(server)
    }

    /// The samples of an instant query: labels and value.
    pub async fn query(&self, query: &str) -> anyhow::Result<Vec<(Value, f64)>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (status, body) = http::get(&self.url(&format!("/api/v1/query?query={encoded}"))).await?;
        anyhow::ensure!(status == 200, "{query}: status {status}: {body}");
        let answer: Value = serde_json::from_str(&body).context("Prometheus answered no JSON")?;
        let samples = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let parsed = samples.into_iter().map(|sample| {
            let value = sample["value"][1].as_str().unwrap_or_default().parse()?;
            Ok((sample["metric"].clone(), value))
        });
        parsed.collect()
    }

    /// The one value of a query that has one, retried until it is there.
    pub async fn value(&self, query: &str, limit: Duration) -> anyhow::Result<f64> {
        wait::wait_for(query, limit, || async {
            let samples = self.query(query).await?;
            Ok(match samples.as_slice() {
                [(_, value)] if value.is_finite() => Ok(*value),
                _ => Err(format!("{samples:?}")),
            })
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id() {
            process::send(pid, Signal::SIGTERM).ok();
        }
    }
}

/// The configuration that the README shows, with shorter intervals.
fn configuration(authority: &str) -> String {
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs:\n\
         - job_name: weft-control\n  \
           static_configs: [{{targets: ['{authority}']}}]\n\
         - job_name: weft-proxies\n  \
           http_sd_configs: [{{url: 'http://{authority}/targets', refresh_interval: 2s}}]\n"
    )
}
