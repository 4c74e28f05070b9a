//! Configuration from a control plane, changed under load.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use weft_xds::{
    ResourceType,
    json::any_from_json,
    load::{ClusterLoad, LoadSink, LrsService},
    pb::{envoy::config::core::v3::Node, google::protobuf::Any},
    server::{Listener, Snapshot, SnapshotCache},
};

use crate::support::{Proxy, Upstream, raw, statuses};

/// Nobody asks for load here.
struct NoReports;

impl LoadSink for NoReports {
    fn report(&self, _node: &Node, _loads: &[ClusterLoad]) {}
}

/// A control plane.
struct Control {
    cache: SnapshotCache,
    address: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

impl Control {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let cache = SnapshotCache::new();
        let stop = CancellationToken::new();
        let ads = weft_xds::server::AdsService::new(cache.clone(), stop.clone());
        let lrs = LrsService::new(Arc::new(NoReports), Duration::from_secs(60), stop.clone());
        tokio::spawn(weft_xds::server::serve(Listener::Tcp(listener), ads, lrs, stop.clone()));
        Self { cache, address, _stop: stop.drop_guard() }
    }

    fn bootstrap(&self) -> String {
        format!(
            r#"node: {{ id: p, cluster: test }}
dynamic_resources:
  ads_config: {{ api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{{ google_grpc: {{ target_uri: "{}", stat_prefix: x }} }}] }}
  lds_config: {{ ads: {{}} }}
  cds_config: {{ ads: {{}} }}
"#,
            self.address
        )
    }
}

fn any(type_: &str, mut value: serde_json::Value) -> Any {
    value["@type"] = format!("type.googleapis.com/{type_}").into();
    any_from_json(&value).expect("a resource")
}

fn named(name: &str, any: Any) -> BTreeMap<String, Any> {
    BTreeMap::from([(name.to_owned(), any)])
}

fn snapshot(port: u16, status_prefix: &str, upstreams: &[SocketAddr]) -> Snapshot {
    let endpoints: Vec<_> = upstreams
        .iter()
        .map(|a| json!({"endpoint": {"address": {"socket_address": {"address": a.ip().to_string(), "port_value": a.port()}}}}))
        .collect();
    Snapshot {
        listeners: named(
            "web",
            any(
                "envoy.config.listener.v3.Listener",
                json!({
                    "name": "web",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": status_prefix,
                        "rds": {"config_source": {"ads": {}}, "route_config_name": "r"},
                        "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
                    }}]}],
                }),
            ),
        ),
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

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what} did not happen");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// Keeps one connection busy until told to stop; counts answers and failures.
async fn load(address: SocketAddr, stop: Arc<AtomicBool>, good: Arc<AtomicUsize>, bad: Arc<AtomicUsize>) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let mut buffer = vec![0; 4096];
    while !stop.load(Ordering::SeqCst) {
        let sent = stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        let answer = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let counter = if sent.is_ok() && answer.starts_with("HTTP/1.1 200") { &good } else { &bad };
        counter.fetch_add(1, Ordering::SeqCst);
        if answer.contains("connection: close") || count == 0 {
            stream = TcpStream::connect(address).await.expect("connects again");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_and_listeners_change_under_load_without_one_failed_request() {
    let control = Control::start().await;
    let (a, b) = (Upstream::echo().await, Upstream::echo().await);
    let port = free_port();
    control.cache.set("p", snapshot(port, "one", &[a.address]));
    let proxy = Proxy::start(&control.bootstrap()).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("endpoints", async || {
        statuses(&raw(address, "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await) == ["200"]
    })
    .await;
    let (stop, good, bad) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let clients: Vec<_> = (0..4)
        .map(|_| tokio::spawn(load(address, Arc::clone(&stop), Arc::clone(&good), Arc::clone(&bad))))
        .collect();
    for round in 0..6 {
        let upstreams: &[SocketAddr] = match round % 3 {
            0 => &[a.address, b.address],
            1 => &[b.address],
            _ => &[a.address],
        };
        let prefix = if round % 2 == 0 { "one" } else { "two" };
        control.cache.set("p", snapshot(port, prefix, upstreams));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("the client ran");
    }
    assert!(good.load(Ordering::SeqCst) > 50);
    assert_eq!(bad.load(Ordering::SeqCst), 0, "of {}", good.load(Ordering::SeqCst));
    assert!(b.connections() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_used_is_refused_with_its_field_and_the_last_good_one_stays() {
    let control = Control::start().await;
    let upstream = Upstream::echo().await;
    let port = free_port();
    let good = snapshot(port, "one", &[upstream.address]);
    control.cache.set("p", good.clone());
    let proxy = Proxy::start(&control.bootstrap()).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let works = async || {
        TcpStream::connect(address).await.is_ok()
            && statuses(&raw(address, "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await)
                == ["200"]
    };
    eventually("ready", works).await;
    let mut broken = good.clone();
    broken.clusters = named(
        "c",
        any(
            "envoy.config.cluster.v3.Cluster",
            json!({
                "name": "c", "type": "EDS", "lb_policy": "MAGLEV", "eds_cluster_config": {"eds_config": {"ads": {}}},
            }),
        ),
    );
    control.cache.set("p", broken);
    eventually("a refusal", async || {
        let status = control.cache.status("p").expect("known");
        status.types.get(&ResourceType::Cluster).and_then(|status| status.last_nack.as_ref()).is_some_and(
            |nack| {
                nack.resources.iter().any(|one| one.reason.contains("lb_policy"))
                    || nack.message.contains("lb_policy")
            },
        )
    })
    .await;
    assert!(works().await);
    // Without its control plane it serves on, and a listener that is taken away is closed.
    let mut empty = good;
    empty.listeners.clear();
    control.cache.set("p", empty);
    eventually("the listener is closed", async || TcpStream::connect(address).await.is_err()).await;
    drop(control);
    assert_eq!(proxy.admin("GET", "/ready").await, "LIVE\n");
}
