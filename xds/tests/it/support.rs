//! What the tests share: a server on a free port, and resources written as JSON.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use weft_xds::{
    json,
    load::{ClusterLoad, LoadSink, LrsService},
    pb::{envoy::config::core::v3::Node, google::protobuf::Any},
    server::{AdsService, Listener, Snapshot, SnapshotCache, serve},
    transport::ServerAddress,
};

/// Long enough for a loaded machine; nothing waits this long if all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server that can be stopped and started again at the same address.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub(crate) struct NoLoads;

impl LoadSink for NoLoads {
    fn report(&self, _node: &Node, _loads: &[ClusterLoad]) {}
}

impl TestServer {
    pub(crate) async fn start(cache: &SnapshotCache) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), cache, Arc::new(NoLoads)).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        cache: &SnapshotCache,
        sink: Arc<dyn LoadSink>,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let ads = AdsService::new(cache.clone(), stop.clone());
        let lrs = LrsService::new(sink, Duration::from_millis(100), stop.clone());
        let serving = serve(Listener::Tcp(listener), ads, lrs, stop.clone());
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, stop, task }
    }

    pub(crate) fn server(&self) -> ServerAddress {
        self.address.to_string().parse().unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server stops when told").unwrap();
    }
}

pub(crate) fn node(id: &str) -> Node {
    Node { id: id.into(), cluster: "test".into(), ..Default::default() }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn resource(type_: &str, mut value: Value) -> Any {
    value["@type"] = format!("type.googleapis.com/{type_}").into();
    json::any_from_json(&value).unwrap()
}

/// One listener that sends everything to one cluster with one endpoint.
pub(crate) fn snapshot(listener: SocketAddr, endpoint: SocketAddr) -> Snapshot {
    let ads = json!({ "ads": {}, "resource_api_version": "V3" });
    let cluster = json!({
        "name": "web",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": { "eds_config": ads },
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "rds": { "route_config_name": "web", "config_source": ads },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let listener = json!({
        "name": "web",
        "address": address(listener),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }] }],
    });
    let route = json!({
        "name": "web",
        "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "web" } }],
        }],
    });
    let one = |resource| BTreeMap::from([("web".to_owned(), resource)]);
    Snapshot {
        clusters: one(resource("envoy.config.cluster.v3.Cluster", cluster)),
        endpoints: one(endpoints("web", endpoint)),
        listeners: one(resource("envoy.config.listener.v3.Listener", listener)),
        routes: one(resource("envoy.config.route.v3.RouteConfiguration", route)),
        ..Default::default()
    }
}

pub(crate) fn endpoints(name: &str, endpoint: SocketAddr) -> Any {
    let endpoint = json!({ "endpoint": { "address": address(endpoint) } });
    let value = json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] });
    resource("envoy.config.endpoint.v3.ClusterLoadAssignment", value)
}

pub(crate) fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
