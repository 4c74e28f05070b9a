//! Control planes that are not ours, with every awkward behaviour, while requests run through the proxy.
//!
//! `tests/python/ads_server.py` is one on Python's grpcio with the published types. Each test drives a proxy with it in
//! both variants of the protocol; the proxy's bootstrap knows nothing but the server.

mod awkward;
mod control;
mod lifetimes;
mod lost;
mod ordinary;
mod polled;
mod single;
mod warming;

use std::net::SocketAddr;

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::{
    bootstrap::{Bootstrap, socket},
    http::Sampler,
    proxy::Proxy,
    upstream::Upstream,
};

use self::control::Control;

/// State of the world, and incremental.
const VARIANTS: [&str; 2] = ["GRPC", "DELTA_GRPC"];

/// A proxy that such a server drives, under load.
struct Driven {
    control: Control,
    proxy: Proxy,
    /// Where requests go at first.
    upstream: Upstream,
    /// Of another cluster.
    other: Upstream,
    load: Sampler,
}

// === impl Driven ===

impl Driven {
    /// Starts all of it: listener `front` with routes `front` to cluster `up`.
    async fn start(variant: &str) -> anyhow::Result<Self> {
        let (upstream, other) = (Upstream::start().await?, Upstream::start().await?);
        let mut control = Control::start().await?;
        control.set("cds", "1", &[cluster("up")]).await?;
        control.set("eds", "1", &[endpoints("up", &[upstream.address])]).await?;
        control.set("lds", "1", &[listener("front")]).await?;
        control.set("rds", "1", &[routes("front", "up")]).await?;
        let proxy = Proxy::start(control.bootstrap(variant, &json!({}))).await?;
        let load = Sampler::start(&proxy.at("front")?.to_string(), 2, std::time::Duration::from_millis(5));
        Ok(Self { control, proxy, upstream, other, load })
    }

    /// Adds cluster `other` beside `up`; `version` is of the update.
    async fn add_other(&mut self, version: &str) -> anyhow::Result<()> {
        self.control.set("cds", version, &[cluster("up"), cluster("other")]).await?;
        let both = [endpoints("up", &[self.upstream.address]), endpoints("other", &[self.other.address])];
        self.control.set("eds", version, &both).await
    }

    /// Sends requests to cluster `other`, once its endpoints are there: to have no order is no behaviour that any client
    /// makes up for.
    async fn route_to_other(&mut self, version: &str) -> anyhow::Result<()> {
        self.proxy.metric_becomes("envoy_cluster_membership_total", "\"other\"", 1.0).await?;
        self.control.set("rds", version, &[routes("front", "other")]).await?;
        self.moves_to_other().await
    }

    /// Waits until requests arrive at `other`.
    async fn moves_to_other(&self) -> anyhow::Result<()> {
        let before = self.other.requests();
        arrive(&self.other, before + 10).await
    }

    /// No request failed, and requests still arrive.
    async fn finish(self) -> anyhow::Result<()> {
        let so_far = self.load.samples().len();
        weft_tests::wait::wait_for("requests go on", weft_tests::wait::LONG, || async {
            let samples = self.load.samples().len();
            Ok(if samples > so_far + 10 { Ok(()) } else { Err(format!("{samples} answers")) })
        })
        .await?;
        let (failed, all, some) = self.load.failures();
        ensure!(failed == 0, "{failed} of {all} requests failed: {some:?}\n{}", self.proxy.log());
        drop(self.load);
        self.proxy.finish().await
    }
}

/// Waits until this many requests were made of it.
async fn arrive(upstream: &Upstream, count: usize) -> anyhow::Result<()> {
    weft_tests::wait::wait_for("requests arrive", weft_tests::wait::LONG, || async {
        let requests = upstream.requests();
        Ok(if requests >= count { Ok(()) } else { Err(format!("{requests} of {count}")) })
    })
    .await
}

/// Where everything comes from if nothing else is said.
fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

fn cluster(name: &str) -> Value {
    cluster_from(name, &ads())
}

/// A cluster whose endpoints come from `source`.
fn cluster_from(name: &str, source: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": "5s",
        "eds_cluster_config": {"eds_config": source},
    })
}

fn endpoints(name: &str, addresses: &[SocketAddr]) -> Value {
    let hosts: Vec<Value> =
        addresses.iter().map(|at| json!({"endpoint": {"address": socket(*at)}})).collect();
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": hosts}],
    })
}

fn listener(name: &str) -> Value {
    listener_from(name, &ads())
}

/// A listener whose routes come from `source`.
fn listener_from(name: &str, source: &Value) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": name, "config_source": source},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "address": socket(SocketAddr::from(([127, 0, 0, 1], 0))),
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    })
}

fn routes(name: &str, cluster: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
        }],
    })
}

/// A bootstrap that knows a server over its static cluster `xds`, and where listeners and clusters come from.
fn bootstrap(server: SocketAddr, dynamic: Value) -> String {
    Bootstrap::default().http2_cluster("xds", &[server], json!({})).dynamic(dynamic).to_string()
}
