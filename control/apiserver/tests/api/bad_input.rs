use http::Method;
use serde_json::json;

use crate::support::{CONFIG_MAPS, DEPLOYMENTS, PODS, Server, config_map, deployment, names, pod};

#[tokio::test]
async fn unknown_and_repeated_fields_are_refused_told_or_passed_over() {
    let server = Server::start().await;
    let mut body = deployment("a");
    body["spec"]["replicaz"] = json!(1);
    let strict = server.post(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), body.clone()).await;
    let message = strict.expect_failure(400, "BadRequest");
    assert!(message.contains("strict decoding error: unknown field \"spec.replicaz\""), "{message}");
    server.get(&format!("{DEPLOYMENTS}/a")).await.expect_failure(404, "NotFound");
    let warned = server.post(&format!("{DEPLOYMENTS}?fieldValidation=Warn"), body.clone()).await;
    assert!(warned.expect(201)["spec"].get("replicaz").is_none());
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"spec.replicaz\\\"\"");
    body["metadata"]["name"] = json!("b");
    let ignored = server.post(&format!("{DEPLOYMENTS}?fieldValidation=Ignore"), body).await;
    assert!(!ignored.headers.contains_key("warning"));
    let twice = br#"{"metadata":{"name":"t"},"data":{"a":"1","a":"2"}}"#.to_vec();
    let path = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let answer = server.call(Method::POST, &path, &[], twice).await;
    assert!(answer.expect_failure(400, "BadRequest").contains("duplicate field"));
}

#[tokio::test]
async fn wrong_types_and_broken_rules_name_the_field() {
    let server = Server::start().await;
    let mut body = deployment("a");
    body["spec"]["replicas"] = json!("three");
    let message = server.post(DEPLOYMENTS, body).await.expect_failure(400, "BadRequest");
    assert!(message.contains("spec.replicas"), "{message}");
    let mut body = deployment("a");
    body["spec"]["template"]["spec"]["containers"] = json!([]);
    let answer = server.post(DEPLOYMENTS, body).await;
    let message = answer.expect_failure(422, "Invalid");
    assert!(message.contains("spec.template.spec.containers"), "{message}");
    assert_eq!(answer.json()["details"]["causes"][0]["field"], "spec.template.spec.containers");
    let message = server.post(CONFIG_MAPS, config_map("A_B")).await.expect_failure(422, "Invalid");
    assert!(message.contains("metadata.name"), "{message}");
    assert!(names(&server.get(DEPLOYMENTS).await.expect(200)).is_empty());
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_400_and_too_large_ones_413() {
    let server = Server::start().await;
    let post = |body: Vec<u8>| server.call(Method::POST, CONFIG_MAPS, &[], body);
    for body in ["{", "[]", "nul", "{\"metadata\":1}", "\u{0}"] {
        post(body.into()).await.expect_failure(400, "BadRequest");
    }
    post("{\"a\":".repeat(100_000).into_bytes()).await.expect_failure(400, "BadRequest");
    post(vec![b' '; 4 << 20]).await.expect_failure(413, "RequestEntityTooLarge");
    let mut large = config_map("large");
    large["data"]["a"] = json!("x".repeat(2 << 20));
    let answer = server.post(CONFIG_MAPS, large).await;
    assert!(matches!(answer.code, 413 | 422), "{}", answer.code);
    let yaml = b"a: &x [1]\nb: [*x, *x]\n".to_vec();
    let headers = [("content-type", "application/yaml")];
    server.call(Method::POST, CONFIG_MAPS, &headers, yaml).await.expect_failure(400, "BadRequest");
    let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
    for body in [b"k8s\0rubbish".to_vec(), b"rubbish".to_vec(), vec![0xff; 1000]] {
        server.call(Method::POST, CONFIG_MAPS, &headers, body).await.expect_failure(400, "BadRequest");
    }
    let headers = [("content-type", "text/html")];
    let answer = server.call(Method::POST, CONFIG_MAPS, &headers, b"{}".to_vec()).await;
    answer.expect_failure(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn what_is_not_there_is_404_or_405() {
    let server = Server::start().await;
    for path in [
        "/nothing",
        "/api/v2/pods",
        "/api/v1/gadgets",
        "/api/v1/namespaces/default/gadgets/x",
        "/apis/example.com",
        "/apis/example.com/v1/gadgets",
        "/apis/apps/v1beta1/deployments",
        "/api/v1/namespaces/default/pods/a/gadget",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/pods/a",
        "/openapi/v3/apis/example.com/v1",
    ] {
        server.get(path).await.expect_failure(404, "NotFound");
    }
    let bad = |method: Method, path: &'static str| server.call(method, path, &[], b"{}".to_vec());
    for (method, path) in [
        (Method::POST, "/api/v1/namespaces/default/pods/a"),
        (Method::PUT, "/api/v1/namespaces/default/pods"),
        (Method::PATCH, "/api/v1/namespaces/default/pods"),
        (Method::POST, "/api/v1/pods"),
        (Method::DELETE, "/api/v1/namespaces"),
        (Method::PUT, "/api/v1/namespaces/default/pods/a/log"),
        (Method::OPTIONS, "/api/v1/namespaces/default/pods"),
        (Method::POST, "/version"),
    ] {
        bad(method, path).await.expect_failure(405, "MethodNotAllowed");
    }
}

#[tokio::test]
async fn objects_for_another_place_or_kind_are_refused() {
    let server = Server::start().await;
    let mut elsewhere = pod("a");
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    server.post(PODS, elsewhere).await.expect_failure(400, "BadRequest");
    server.post(PODS, config_map("a")).await.expect_failure(400, "BadRequest");
    let mut old = pod("a");
    old["apiVersion"] = json!("v1beta1");
    server.post(PODS, old).await.expect_failure(400, "BadRequest");
    let mut versioned = pod("a");
    versioned["metadata"]["resourceVersion"] = json!("5");
    server.post(PODS, versioned).await.expect_failure(400, "BadRequest");
    let nameless = json!({"spec": {"containers": [{"name": "c", "image": "x"}]}});
    server.post(PODS, nameless).await.expect_failure(422, "Invalid");
    server.post("/api/v1/namespaces/nope/pods", pod("a")).await.expect_failure(404, "NotFound");
    for path in
        ["/api/v1/namespaces/default/pods/%2e%2e", "/api/v1/namespaces/a%2fb/pods", "/api/v1/pods/a%00"]
    {
        server.get(path).await.expect_failure(400, "BadRequest");
    }
}
