//! `ads_server.py`, told what to do and asked what it saw.

use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::{Value, json};
use weft_tests::python::{self, Script};

/// The running server.
pub(super) struct Control {
    script: Script,
    pub(super) address: SocketAddr,
    /// What it saw that nobody asked for yet.
    events: Vec<Value>,
}

// === impl Control ===

impl Control {
    /// What tests of this folder need.
    pub(super) async fn python() -> anyhow::Result<std::path::PathBuf> {
        python::find("grpc, envoy.service.discovery.v3.ads_pb2_grpc").await
    }

    pub(super) async fn start() -> anyhow::Result<Self> {
        let (script, address) = Script::server(&Self::python().await?, "ads_server.py", &[]).await?;
        Ok(Self { script, address, events: Vec::new() })
    }

    /// A bootstrap with the server as its only source; `source` is added to those of listeners and clusters.
    pub(super) fn bootstrap(&self, variant: &str, source: &Value) -> String {
        let mut ads = json!({"ads": {}, "resource_api_version": "V3"});
        if let (Some(ads), Some(source)) = (ads.as_object_mut(), source.as_object()) {
            ads.extend(source.clone());
        }
        super::bootstrap(
            self.address,
            json!({
                "ads_config": {
                    "api_type": variant,
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
                },
                "lds_config": ads,
                "cds_config": ads,
            }),
        )
    }

    /// Says what there is of a type.
    pub(super) async fn set(
        &mut self,
        type_: &str,
        version: &str,
        resources: &[Value],
    ) -> anyhow::Result<()> {
        self.tell(&json!({"do": "set", "type": type_, "version": version, "resources": resources})).await
    }

    /// Sends a response as it is, with a nonce of its own, and gives the client's answer to it.
    pub(super) async fn raw(&mut self, nonce: &str, response: Value) -> anyhow::Result<Value> {
        self.send(nonce, response).await?;
        self.answer(nonce).await
    }

    /// The same without waiting for the answer.
    pub(super) async fn send(&mut self, nonce: &str, mut response: Value) -> anyhow::Result<()> {
        response["do"] = json!("raw");
        response["nonce"] = json!(nonce);
        self.tell(&response).await
    }

    /// The next request that answers the response with this nonce.
    pub(super) async fn answer(&mut self, nonce: &str) -> anyhow::Result<Value> {
        self.event(&format!("the answer to {nonce}"), |event| event["response_nonce"] == nonce).await
    }

    /// Has it do something, and waits until it is done.
    pub(super) async fn tell(&mut self, command: &Value) -> anyhow::Result<()> {
        self.script.tell(&command.to_string()).await?;
        loop {
            let event = self.read().await?;
            if event["saw"] == "done" {
                return Ok(());
            }
            self.events.push(event);
        }
    }

    /// The first thing that it saw, and that was not asked for before, that is meant.
    pub(super) async fn event(
        &mut self,
        what: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        if let Some(at) = self.events.iter().position(&is_it) {
            return Ok(self.events.remove(at));
        }
        loop {
            let event = self.read().await.with_context(|| format!("{what}; it saw {:#?}", self.events))?;
            if is_it(&event) {
                return Ok(event);
            }
            self.events.push(event);
        }
    }

    /// The first request of the next stream, or of the one that is open.
    pub(super) async fn first_request(&mut self) -> anyhow::Result<Value> {
        self.event("the first request of a stream", |event| event["first"] == true).await
    }

    /// Whether something that is meant is among what it saw before the last command, and nobody asked for yet.
    pub(super) fn saw(&self, is_it: impl Fn(&Value) -> bool) -> bool {
        self.events.iter().any(is_it)
    }

    /// Forgets what it saw so far.
    pub(super) fn forget(&mut self) {
        self.events.clear();
    }

    async fn read(&mut self) -> anyhow::Result<Value> {
        let line = self.script.line().await?;
        serde_json::from_str(&line).with_context(|| format!("ads_server.py printed {line}"))
    }
}
