use std::convert::Infallible;

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use tower::{service_fn, util::BoxCloneSyncService};
use weft_apiserver::{AggregatedResource, Body};

use crate::support::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn each_form_of_discovery_tells_the_same() {
    let server = Server::start().await;
    let core = server.get("/api/v1").await.expect(200);
    let find = |list: &serde_json::Value, name: &str| {
        list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|resource| resource["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(find(&core, "pods")["shortNames"], json!(["po"]));
    let eviction = find(&core, "pods/eviction");
    assert_eq!((eviction["group"].as_str(), eviction["version"].as_str()), (Some("policy"), Some("v1")));
    let apps = server.get("/apis/apps/v1").await.expect(200);
    assert_eq!(find(&apps, "deployments/scale")["kind"], "Scale");
    assert_eq!(server.get("/apis/apps").await.expect(200)["preferredVersion"]["groupVersion"], "apps/v1");
    assert_eq!(server.get("/api").await.expect(200)["versions"], json!(["v1"]));
    assert_eq!(server.get("/apis").await.expect(200)["kind"], "APIGroupList");
    let answer = server.get_as("/apis", AGGREGATED).await;
    let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    assert_eq!(answer.headers["content-type"], media);
    let groups = answer.expect(200);
    let group =
        groups["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "apps").unwrap();
    let resources = group["versions"][0]["resources"].as_array().unwrap();
    assert_eq!(resources[0]["subresources"][0]["subresource"], "scale");
    let older = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    let core = server.get_as("/api", older).await.expect(200);
    assert_eq!(core["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    server.get_as("/apis", "application/xml").await.expect_failure(406, "NotAcceptable");
}

#[tokio::test]
async fn schemas_are_there_for_every_group() {
    let server = Server::start().await;
    let index = server.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.contains("?hash="), "{url}");
    let document = server.get(url).await.expect(200);
    assert!(document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"].is_object());
    assert_eq!(server.get("/openapi/v2").await.expect(200)["swagger"], "2.0");
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = server.get_as("/openapi/v2", protobuf).await;
    assert_eq!(answer.code, 200);
    assert!(!answer.bytes.is_empty());
    assert!(!answer.headers["content-type"].to_str().unwrap().contains('@'));
}

#[tokio::test]
async fn health_version_and_metrics_answer() {
    let server = Server::start().await;
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = server.get(path).await;
        assert_eq!((answer.code, answer.bytes.as_slice()), (200, b"ok".as_slice()));
    }
    assert_eq!(server.get("/version").await.expect(200)["minor"], "33");
    server.get("/api/v1/pods").await.expect(200);
    let text = String::from_utf8(server.get("/metrics").await.bytes).unwrap();
    assert!(text.contains("apiserver_request_total{code=\"200\""), "{text}");
    assert!(text.contains("apiserver_storage_objects{resource=\"namespaces\"} 4"), "{text}");
}

#[tokio::test]
async fn aggregated_groups_are_discovered_and_told_who_asks() {
    let server = Server::start().await;
    let service = service_fn(|request: Request<Body>| async move {
        let user = request.headers()["x-remote-user"].to_str().unwrap().to_owned();
        let text = json!({"user": user, "path": request.uri().path()}).to_string();
        Ok::<_, Infallible>(Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync()))
    });
    let resource = AggregatedResource {
        name: "nodes".into(),
        singular: "node".into(),
        kind: "NodeMetrics".into(),
        namespaced: false,
        verbs: vec!["get".into(), "list".into()],
    };
    let service = BoxCloneSyncService::new(service);
    let metric =
        AggregatedResource { name: "pods/requests_per_second".into(), namespaced: true, ..resource.clone() };
    server.api.aggregate("custom.metrics.k8s.io", "v1beta2", vec![metric], service.clone());
    let path = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/requests_per_second";
    assert_eq!(server.get(path).await.expect(200)["path"], path);
    let groups = server.get_as("/apis", AGGREGATED).await.expect(200);
    let groups = groups["items"].as_array().unwrap();
    let group = groups.iter().find(|item| item["metadata"]["name"] == "custom.metrics.k8s.io").unwrap();
    let pods = &group["versions"][0]["resources"][0];
    assert_eq!((pods["resource"].as_str(), pods["scope"].as_str()), (Some("pods"), Some("Namespaced")));
    assert_eq!(pods["subresources"][0]["subresource"], "requests_per_second");
    server.api.aggregate("metrics.k8s.io", "v1beta1", vec![resource], service);
    let path = "/apis/metrics.k8s.io/v1beta1/nodes";
    let forged = [("x-remote-user", "root")];
    let answer = server.call(Method::GET, path, &forged, Vec::new()).await.expect(200);
    assert_eq!(answer, json!({"user": "tester", "path": path}));
    let list = server.get("/apis/metrics.k8s.io/v1beta1").await.expect(200);
    assert_eq!(list["resources"][0]["kind"], "NodeMetrics");
    server.get("/apis/metrics.k8s.io/v1beta1/pods").await.expect_failure(404, "NotFound");
    let alice = server.as_user("alice", &[]);
    crate::support::call(&alice, Method::GET, path, &[], Vec::new()).await.expect_failure(403, "Forbidden");
}
