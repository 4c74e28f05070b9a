//! A control plane in this process, and what it tells: one listener, its routes, one cluster and its endpoints.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use weft_xds::{
    ResourceType,
    json::any_from_json,
    load::{ClusterLoad, LoadSink, LrsService},
    pb::{envoy::config::core::v3::Node, google::protobuf::Any},
    server::{Listener, Own, Snapshot, SnapshotCache},
    session::Layer,
};

/// Nobody asks for load here.
struct NoReports;

impl LoadSink for NoReports {
    fn report(&self, _node: &Node, _loads: &[ClusterLoad]) {}
}

/// A control plane.
pub(crate) struct Control {
    pub(crate) cache: SnapshotCache,
    pub(crate) address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

impl Control {
    pub(crate) async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cache = SnapshotCache::new();
        let stop = CancellationToken::new();
        let ads = weft_xds::server::AdsService::new(cache.clone(), stop.clone());
        let lrs = LrsService::new(Arc::new(NoReports), Duration::from_secs(60), stop.clone());
        tokio::spawn(weft_xds::server::serve(Listener::Tcp(listener), ads, lrs, stop.clone()));
        Self { cache, address, _stop: stop.drop_guard() }
    }

    /// Gives the proxy what belongs to it, and what all share: of listeners and clusters only those that it names.
    pub(crate) fn give_on_request(&self, own: &Snapshot, shared: &Snapshot) {
        let layer = |snapshot| {
            let mut layer = Layer::default();
            layer.replace(snapshot);
            layer
        };
        let own = Own {
            layer: layer(own),
            shares: &[ResourceType::ClusterLoadAssignment, ResourceType::RouteConfiguration],
            on_request: &[ResourceType::Cluster, ResourceType::Listener],
        };
        self.cache.publish(layer(shared), [("p".to_owned(), own)]);
    }

    pub(crate) fn bootstrap(&self) -> String {
        self.bootstrap_by("DELTA_GRPC")
    }

    /// The same by one of the two kinds of stream.
    pub(crate) fn bootstrap_by(&self, api: &str) -> String {
        format!(
            r#"node: {{ id: p, cluster: test }}
dynamic_resources:
  ads_config: {{ api_type: {api}, transport_api_version: V3, grpc_services: [{{ google_grpc: {{ target_uri: "{}", stat_prefix: x }} }}] }}
  lds_config: {{ ads: {{}} }}
  cds_config: {{ ads: {{}} }}
"#,
            self.address
        )
    }
}

pub(crate) fn any(type_: &str, mut value: serde_json::Value) -> Any {
    value["@type"] = format!("type.googleapis.com/{type_}").into();
    any_from_json(&value).expect("a resource")
}

pub(crate) fn named(name: &str, any: Any) -> BTreeMap<String, Any> {
    BTreeMap::from([(name.to_owned(), any)])
}

/// A listener whose routes are `r`.
pub(crate) fn listener(name: &str, port: u16, stat_prefix: &str) -> Any {
    any(
        "envoy.config.listener.v3.Listener",
        json!({
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": stat_prefix,
                "rds": {"config_source": {"ads": {}}, "route_config_name": "r"},
                "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            }}]}],
        }),
    )
}

pub(crate) fn snapshot(port: u16, status_prefix: &str, upstreams: &[SocketAddr]) -> Snapshot {
    let endpoints: Vec<_> = upstreams
        .iter()
        .map(|a| json!({"endpoint": {"address": {"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}}}}))
        .collect();
    Snapshot {
        listeners: named("web", listener("web", port, status_prefix)),
        clusters: named(
            "c",
            any(
                "envoy.config.cluster.v3.Cluster",
                json!({
                    "name": "c", "type": "EDS", "connect_timeout": "1s",
                    "eds_cluster_config": {"eds_config": {"ads": {}}},
                }),
            ),
        ),
        routes: named(
            "r",
            any(
                "envoy.config.route.v3.RouteConfiguration",
                json!({
                    "name": "r",
                    "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c",
                        "retry_policy": {"retry_on": "connect-failure,refused-stream,reset-before-request"}}}]}],
                }),
            ),
        ),
        endpoints: named(
            "c",
            any(
                "envoy.config.endpoint.v3.ClusterLoadAssignment",
                json!({
                    "cluster_name": "c", "endpoints": [{"lb_endpoints": endpoints}],
                }),
            ),
        ),
        ..Snapshot::default()
    }
}

pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what} did not happen");
}

pub(crate) fn free_port() -> u16 {
    let held = super::HeldPort::bind();
    let port = held.address.port();
    // Until the tests end: whoever asked may open it at any time, and nobody else.
    std::mem::forget(held);
    port
}
