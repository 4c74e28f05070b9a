//! The metrics APIs, from what nodes and proxies tell to the objects that kubectl and autoscalers read.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::{FakeApi, eventually, pod, service, slice};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt as _, util::BoxCloneSyncService};
use weft_mesh::{Config, Mesh, start};
use weft_xds::{
    load::{ClusterLoad, EndpointLoad, LoadSource, ReportConfig, report},
    pb::envoy::config::core::v3::Node,
};

const POD: &str = "127.0.0.9:8080";

/// A cluster of one node that uses half a core, with the pod `web-1` that uses a tenth of one.
async fn cluster() -> (FakeApi, Mesh, CancellationToken) {
    let (api, shutdown) = (FakeApi::default(), CancellationToken::new());
    let address: SocketAddr = POD.parse().unwrap();
    api.put("/api/v1/services", service("web", "10.96.0.7", json!([{ "name": "http", "port": 80 }])));
    api.put("/apis/discovery.k8s.io/v1/endpointslices", slice("web", "web-1", address, true));
    api.put("/api/v1/pods", pod("web-1", "127.0.0.9", 8080));
    let node = json!({ "metadata": { "name": "n1", "labels": { "zone": "a" } } });
    api.put("/api/v1/nodes", node);
    let started = std::time::Instant::now();
    api.text("/api/v1/nodes/n1/proxy/metrics/resource", move || {
        let seconds = started.elapsed().as_secs_f64();
        let labels = "container=\"web\",namespace=\"default\",pod=\"web-1\"";
        format!(
            "node_cpu_usage_seconds_total {}\nnode_memory_working_set_bytes 1048576\n\
             container_cpu_usage_seconds_total{{{labels}}} {}\ncontainer_memory_working_set_bytes{{{labels}}} 4096\n",
            seconds * 0.5,
            seconds * 0.1
        )
    });
    let config = Config { load_interval: Duration::from_secs(1), ..Config::default() };
    let mesh = start(api.client(), config, shutdown.clone()).await.unwrap();
    let mut state = mesh.mesh_state();
    state.wait_for(|state| state.is_synced()).await.unwrap();
    (api, mesh, shutdown)
}

async fn ask(mesh: &Mesh, method: Method, path: &str) -> (StatusCode, Value) {
    let api = mesh.metrics_api().remove(0);
    let request = Request::builder().method(method).uri(path).body(()).unwrap();
    let response = api.service.oneshot(request).await.unwrap();
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).expect("always JSON"))
}

async fn get(mesh: &Mesh, path: &str) -> (StatusCode, Value) {
    ask(mesh, Method::GET, path).await
}

fn millicores(usage: &Value) -> u64 {
    let cpu = usage["cpu"].as_str().unwrap().strip_suffix('n').unwrap();
    cpu.parse::<u64>().unwrap() / 1_000_000
}

#[tokio::test]
async fn usage_of_nodes_and_pods_is_there_as_soon_as_somebody_asks() {
    let (_api, mesh, shutdown) = cluster().await;
    let root = "/apis/metrics.k8s.io/v1beta1";
    let (code, nodes) = get(&mesh, &format!("{root}/nodes")).await;
    assert_eq!((code, &nodes["kind"]), (StatusCode::OK, &json!("NodeMetricsList")));
    assert_eq!(nodes["items"][0]["metadata"]["name"], "n1");
    assert!((450..=550).contains(&millicores(&nodes["items"][0]["usage"])), "{nodes}");
    assert_eq!(nodes["items"][0]["usage"]["memory"], "1024Ki");

    let (_, pods) = get(&mesh, &format!("{root}/namespaces/default/pods?labelSelector=app%3Dweb")).await;
    let container = &pods["items"][0]["containers"][0];
    assert_eq!((&container["name"], &container["usage"]["memory"]), (&json!("web"), &json!("4Ki")));
    assert!((90..=110).contains(&millicores(&container["usage"])), "{pods}");
    let (_, others) = get(&mesh, &format!("{root}/pods?labelSelector=app%3Dother")).await;
    assert_eq!(others["items"], json!([]));
    let (code, one) = get(&mesh, &format!("{root}/namespaces/default/pods/web-1")).await;
    assert_eq!((code, &one["kind"]), (StatusCode::OK, &json!("PodMetrics")));
    let (code, one) = get(&mesh, &format!("{root}/nodes/n1")).await;
    assert_eq!((code, &one["kind"]), (StatusCode::OK, &json!("NodeMetrics")));
    shutdown.cancel();
}

#[tokio::test]
async fn what_is_not_there_is_a_status() {
    let (_api, mesh, shutdown) = cluster().await;
    for (method, path, expected) in [
        (Method::GET, "/apis/metrics.k8s.io/v1beta1/nodes/nope", 404),
        (Method::GET, "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/nope", 404),
        (Method::GET, "/apis/metrics.k8s.io/v1beta1/things", 404),
        (Method::DELETE, "/apis/metrics.k8s.io/v1beta1/nodes/n1", 405),
        (Method::GET, "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/nope", 404),
        (Method::GET, "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/nope/weft_in_flight", 404),
    ] {
        let (code, status) = ask(&mesh, method, path).await;
        assert_eq!((code.as_u16(), &status["kind"]), (expected, &json!("Status")), "{path}: {status}");
    }
    shutdown.cancel();
}

/// A proxy that sends 100 requests to the pod between two reports, each taking 20 ms.
struct Busy;

impl LoadSource for Busy {
    fn collect(&self) -> Vec<ClusterLoad> {
        let endpoint = EndpointLoad {
            address: Some(POD.parse().unwrap()),
            issued: 100,
            succeeded: 100,
            in_progress: 3,
            latency: Duration::from_secs(2),
            ..EndpointLoad::default()
        };
        vec![ClusterLoad {
            cluster: "web.default:80".to_owned(),
            endpoints: vec![endpoint],
            ..ClusterLoad::default()
        }]
    }
}

#[tokio::test]
async fn load_reports_become_metrics_of_pods_and_services() {
    let (_api, mesh, shutdown) = cluster().await;
    let server = mesh.ads_addresses()[0].to_string().parse().unwrap();
    let node = Node { id: "gateway~~n1".to_owned(), ..Node::default() };
    tokio::spawn(report(ReportConfig::new(server, node), Busy, shutdown.clone()));

    let root = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default";
    let first = eventually("a load report", || async {
        let (_, list) = get(&mesh, &format!("{root}/pods/*/weft_in_flight")).await;
        (list["items"][0]["value"] == "3").then_some(list)
    })
    .await;
    assert_eq!(first["kind"], "MetricValueList");
    let described = &first["items"][0]["describedObject"];
    assert_eq!((&described["kind"], &described["name"]), (&json!("Pod"), &json!("web-1")));
    assert_eq!(first["items"][0]["metric"]["name"], "weft_in_flight");

    let (_, latency) = get(&mesh, &format!("{root}/pods/web-1/weft_latency_milliseconds")).await;
    assert_eq!(latency["items"][0]["value"], "20");
    let (_, rate) = get(&mesh, &format!("{root}/services/web/weft_requests_per_second")).await;
    let value = rate["items"][0]["value"].as_str().unwrap();
    let value = value
        .strip_suffix('m')
        .map_or_else(|| value.parse::<f64>().unwrap(), |m| m.parse::<f64>().unwrap() / 1e3);
    assert!((50.0..=110.0).contains(&value), "{rate}");
    let old = root.replace("v1beta2", "v1beta1");
    let (_, old) = get(&mesh, &format!("{old}/pods/*/weft_in_flight?labelSelector=app%3Dweb")).await;
    assert_eq!(old["items"][0]["metricName"], "weft_in_flight");
    shutdown.cancel();
}

#[tokio::test]
async fn discovery_knows_what_there_is() {
    let (_api, mesh, shutdown) = cluster().await;
    let apis = mesh.metrics_api();
    let groups: Vec<(&str, &str)> = apis.iter().map(|api| (api.group, api.version)).collect();
    let custom = "custom.metrics.k8s.io";
    assert_eq!(groups, [("metrics.k8s.io", "v1beta1"), (custom, "v1beta2"), (custom, "v1beta1")]);
    // The form that the API server takes.
    let _: BoxCloneSyncService<Request<()>, _, Infallible> =
        BoxCloneSyncService::new(apis[0].service.clone());
    assert!(apis[0].resources.iter().any(|resource| resource.name == "pods" && resource.namespaced));
    assert!(apis[1].resources.iter().any(|resource| resource.name == "services/weft_requests_per_second"));
    shutdown.cancel();
}
