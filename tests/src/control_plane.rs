//! A control plane that knows one thing: which endpoints a cluster has.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_xds::{
    json::any_from_json,
    load::{ClusterLoad, LoadSink, LrsService},
    pb::{envoy::config::core::v3::Node, google::protobuf::Any},
    server::{AdsService, Listener, Snapshot, SnapshotCache, serve},
};

use crate::bootstrap::socket;

/// A running control plane; it ends when dropped, and proxies keep what they know.
pub struct ControlPlane {
    cache: SnapshotCache,
    address: SocketAddr,
    _stop: DropGuard,
}

/// Nobody asks for load here.
struct NoReports;

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts one on a port of the kernel's choice.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr().context("it is bound")?;
        let cache = SnapshotCache::new();
        let stop = CancellationToken::new();
        let ads = AdsService::new(cache.clone(), stop.clone());
        let lrs = LrsService::new(Arc::new(NoReports), Duration::from_secs(60), stop.clone());
        tokio::spawn(serve(Listener::Tcp(listener), ads, lrs, stop.clone()));
        Ok(Self { cache, address, _stop: stop.drop_guard() })
    }

    /// `dynamic_resources` of a bootstrap that leads here.
    pub fn resources(&self) -> Value {
        let service = json!({"google_grpc": {"target_uri": self.address.to_string(), "stat_prefix": "ads"}});
        json!({"ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}})
    }

    /// The fields of a cluster whose endpoints come from here.
    pub fn cluster(&self) -> Value {
        json!({"type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, "load_assignment": null})
    }

    /// Tells the proxies of [`crate::bootstrap`] that `cluster` has these endpoints, and no other cluster has any.
    pub fn set(&self, cluster: &str, endpoints: &[SocketAddr]) -> anyhow::Result<()> {
        let hosts: Vec<Value> =
            endpoints.iter().map(|at| json!({"endpoint": {"address": socket(*at)}})).collect();
        self.set_assignment(cluster, Self::assignment(cluster, &json!([{"lb_endpoints": hosts}]))?);
        Ok(())
    }

    /// A `ClusterLoadAssignment` with these `endpoints`, as it has them.
    pub fn assignment(cluster: &str, endpoints: &Value) -> anyhow::Result<Any> {
        any_from_json(&json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": cluster,
            "endpoints": endpoints,
        }))
        .context("not an assignment")
    }

    /// The same as [`set`](Self::set) with an [`assignment`](Self::assignment).
    pub fn set_assignment(&self, cluster: &str, assignment: Any) {
        let endpoints = BTreeMap::from([(cluster.to_owned(), assignment)]);
        self.cache.set("test", Snapshot { endpoints, ..Snapshot::default() });
    }
}

// === impl NoReports ===

impl LoadSink for NoReports {
    fn report(&self, _node: &Node, _loads: &[ClusterLoad]) {}
}
