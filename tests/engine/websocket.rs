//! WebSocket with Python's websockets as client and server: the assertions are in `tests/python/ws_client.py`.

use std::path::PathBuf;

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::{
    bootstrap::Bootstrap,
    need,
    proxy::Proxy,
    python::{self, Script},
};

/// A proxy in front of one server.
struct Setup {
    python: PathBuf,
    proxy: Proxy,
    server: Script,
}

#[tokio::test]
async fn every_kind_of_talk_is_as_without_a_proxy() -> anyhow::Result<()> {
    let python = need!("websocket: talks", python::find("websockets").await);
    let setup = Setup::start(python, upgrades()).await?;
    println!("{}", setup.client("all")?.finish().await?);
    let upgrades = setup.proxy.metric("envoy_http_downstream_cx_upgrades_total", "front").await?;
    ensure!(upgrades > 100.0, "{upgrades}");
    setup.finish().await
}

#[tokio::test]
async fn without_upgrade_configs_the_handshake_is_refused() -> anyhow::Result<()> {
    let python = need!("websocket: refused", python::find("websockets").await);
    let setup = Setup::start(python, json!({})).await?;
    setup.client("refused")?.finish().await?;
    setup.finish().await
}

#[tokio::test]
async fn when_one_end_dies_the_other_one_is_told() -> anyhow::Result<()> {
    let python = need!("websocket: ends", python::find("websockets").await);
    let mut setup = Setup::start(python, upgrades()).await?;
    setup.client("client_dies")?.finish().await?;
    let line = setup.server.line().await?;
    ensure!(line == "/echo/reset 1006", "the server saw: {line}");
    setup.client("client_half_closes")?.finish().await?;
    let line = setup.server.line().await?;
    ensure!(line == "/echo/half 1006", "the server saw: {line}");
    setup.client("server_dies")?.finish().await?;
    setup.finish().await
}

#[tokio::test]
async fn an_idle_tunnel_ends_and_a_used_one_does_not() -> anyhow::Result<()> {
    let python = need!("websocket: idle", python::find("websockets").await);
    let mut manager = upgrades();
    manager["stream_idle_timeout"] = json!("1.5s");
    let mut setup = Setup::start(python, manager).await?;
    setup.client("idle")?.finish().await?;
    let line = setup.server.line().await?;
    ensure!(line == "/echo/idle 1006", "the server saw: {line}");
    setup.finish().await
}

fn upgrades() -> Value {
    json!({"upgrade_configs": [{"upgrade_type": "websocket"}]})
}

// === impl Setup ===

impl Setup {
    async fn start(python: PathBuf, manager: Value) -> anyhow::Result<Self> {
        let (server, address) = Script::server(&python, "ws_server.py", &[]).await?;
        let bootstrap =
            Bootstrap::default().http("front", "up", manager).cluster("up", &[address], json!({}));
        Ok(Self { python, proxy: Proxy::start(bootstrap).await?, server })
    }

    fn client(&self, case: &str) -> anyhow::Result<Script> {
        Script::start(&self.python, "ws_client.py", &[case, &self.proxy.at("front")?.to_string()])
    }

    async fn finish(self) -> anyhow::Result<()> {
        for (gauge, label) in [
            ("envoy_http_downstream_cx_active", "front"),
            ("envoy_http_downstream_rq_active", "front"),
            ("envoy_cluster_upstream_rq_active", "up"),
        ] {
            self.proxy.metric_becomes(gauge, label, 0.0).await?;
        }
        self.proxy.finish().await
    }
}
