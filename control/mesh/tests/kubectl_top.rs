//! The real kubectl reads the metrics API: `kubectl top nodes` and `kubectl top pods`.
//!
//! Skipped, with a printed reason, where there is no `kubectl`.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Instant,
};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use support::{FakeApi, pod};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use weft_mesh::{Config, Mesh, start};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// What kubectl must find before it asks for metrics.
fn discovery(path: &str) -> Option<Value> {
    let core = |name: &str, kind: &str, namespaced: bool| json!({ "name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": ["get", "list"] });
    let version = json!({ "groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1" });
    Some(match path {
        "/api" => json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }),
        "/apis" => json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [
            { "name": "metrics.k8s.io", "versions": [version], "preferredVersion": version }] }),
        "/api/v1" => json!({ "kind": "APIResourceList", "groupVersion": "v1",
            "resources": [core("nodes", "Node", false), core("pods", "Pod", true)] }),
        METRICS => {
            json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
            "resources": [core("nodes", "NodeMetrics", false), core("pods", "PodMetrics", true)] })
        }
        _ => return None,
    })
}

/// An API server for kubectl, put together from the mesh's metrics API and the objects of `api`.
async fn serve(api: FakeApi, mesh: &Mesh) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = mesh.metrics_api().remove(0).service;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (api, metrics) = (api.clone(), metrics.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (api, metrics) = (api.clone(), metrics.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    let body = match discovery(&path) {
                        Some(found) => found.to_string().into(),
                        None if path.starts_with(METRICS) => return metrics.oneshot(request).await,
                        None => {
                            let request = request.map(|_| kube::client::Body::empty());
                            let response = api.client().send(request).await.unwrap();
                            response.into_body().collect().await.unwrap().to_bytes()
                        }
                    };
                    let mut response = Response::new(http_body_util::Full::new(body));
                    let json = http::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
                    Ok(response)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// The output of kubectl; `None` if there is none to run.
async fn kubectl(server: SocketAddr, arguments: &'static [&'static str]) -> Option<String> {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("kubectl");
    command.args(arguments).arg(format!("--server=http://{server}")).stdin(Stdio::null());
    command.env("HOME", home.path()).env_remove("KUBECONFIG");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_top_shows_nodes_and_pods() {
    let (api, shutdown) = (FakeApi::default(), CancellationToken::new());
    api.put("/api/v1/pods", {
        let mut pod = pod("web-1", "127.0.0.9", 8080);
        (pod["kind"], pod["apiVersion"]) = ("Pod".into(), "v1".into());
        pod
    });
    let capacity = json!({ "cpu": "2", "memory": "1Gi" });
    api.put(
        "/api/v1/nodes",
        json!({ "kind": "Node", "apiVersion": "v1", "metadata": { "name": "n1" },
                "status": { "allocatable": capacity, "capacity": capacity } }),
    );
    let started = Instant::now();
    api.text("/api/v1/nodes/n1/proxy/metrics/resource", move || {
        let cpu = started.elapsed().as_secs_f64() * 0.5;
        let labels = "container=\"web\",namespace=\"default\",pod=\"web-1\"";
        format!(
            "node_cpu_usage_seconds_total {cpu}\nnode_memory_working_set_bytes 536870912\n\
             container_cpu_usage_seconds_total{{{labels}}} {cpu}\ncontainer_memory_working_set_bytes{{{labels}}} 67108864\n"
        )
    });
    let mesh = start(api.client(), Config::default(), shutdown.clone()).await.unwrap();
    let server = serve(api, &mesh).await;

    let Some(nodes) = kubectl(server, &["top", "nodes"]).await else {
        weft_tests::record::skip("kubectl_top_shows_nodes_and_pods", "no kubectl on PATH");
        return;
    };
    let row = nodes.lines().find(|line| line.starts_with("n1 ")).expect(&nodes);
    let columns: Vec<&str> = row.split_whitespace().collect();
    assert!(["24%", "25%", "26%"].contains(&columns[2]), "{nodes}");
    assert_eq!(columns[3..], ["512Mi", "50%"], "{nodes}");
    let pods = kubectl(server, &["top", "pods", "--containers"]).await.expect("it was there before");
    let row = pods.lines().find(|line| line.starts_with("web-1 ")).expect(&pods);
    assert!(row.split_whitespace().any(|column| column == "64Mi"), "{pods}");
    shutdown.cancel();
}
