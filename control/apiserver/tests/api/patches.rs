use http::Method;
use serde_json::json;

use crate::support::{CONFIG_MAPS, DEPLOYMENTS, Server, config_map, deployment};

#[tokio::test]
async fn each_kind_of_patch_does_what_its_name_says() {
    let server = Server::start().await;
    server.create(DEPLOYMENTS, deployment("a")).await;
    let path = format!("{DEPLOYMENTS}/a");
    let containers = "/spec/template/spec/containers";
    let sidecar = json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "y"}]}}}});
    let object = server.patch(&path, "strategic-merge", sidecar.clone()).await.expect(200);
    assert_eq!(object.pointer(containers).unwrap().as_array().unwrap().len(), 2, "containers merge by name");
    let object = server.patch(&path, "merge", sidecar).await.expect(200);
    assert_eq!(object.pointer(containers).unwrap().as_array().unwrap().len(), 1, "lists are replaced");
    let operations = json!([
        {"op": "test", "path": "/spec/replicas", "value": 2},
        {"op": "replace", "path": "/spec/replicas", "value": 3},
    ]);
    assert_eq!(server.patch(&path, "json", operations.clone()).await.expect(200)["spec"]["replicas"], 3);
    server.patch(&path, "json", operations).await.expect_failure(422, "Invalid");
}

#[tokio::test]
async fn a_patch_with_a_version_is_for_that_version() {
    let server = Server::start().await;
    let created = server.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let version = created["metadata"]["resourceVersion"].clone();
    let patch = json!({"metadata": {"resourceVersion": version}, "data": {"b": "1"}});
    server.patch(&path, "merge", patch.clone()).await.expect(200);
    server.patch(&path, "merge", patch).await.expect_failure(409, "Conflict");
}

#[tokio::test]
async fn what_a_patch_may_not_do_is_refused() {
    let server = Server::start().await;
    server.create(DEPLOYMENTS, deployment("a")).await;
    let path = format!("{DEPLOYMENTS}/a");
    server.patch(&path, "merge", json!({"metadata": {"name": "b"}})).await.expect_failure(400, "BadRequest");
    server.patch(&path, "merge", json!({"kind": "Pod"})).await.expect_failure(400, "BadRequest");
    server.patch(&path, "merge", json!({"metadata": {"uid": "x"}})).await.expect_failure(409, "Conflict");
    server.patch(&path, "merge", json!([])).await.expect_failure(400, "BadRequest");
    server.patch(&path, "json", json!({})).await.expect_failure(400, "BadRequest");
    server.patch(&path, "merge", json!({"spec": {"replicas": "x"}})).await.expect_failure(400, "BadRequest");
    server.patch(&path, "merge", json!({"spec": {"replicas": -1}})).await.expect_failure(422, "Invalid");
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "b"}}}});
    server.patch(&path, "merge", selector).await.expect_failure(422, "Invalid");
    let remove = json!([{"op": "remove", "path": "/nothing"}]);
    server.patch(&path, "json", remove).await.expect_failure(422, "Invalid");
    let operations: Vec<_> =
        (0..10_001).map(|_| json!({"op": "test", "path": "/kind", "value": "x"})).collect();
    server.patch(&path, "json", json!(operations)).await.expect_failure(413, "RequestEntityTooLarge");
    server.patch(&format!("{DEPLOYMENTS}/b"), "merge", json!({})).await.expect_failure(404, "NotFound");
    server.patch(&path, "sideways", json!({})).await.expect_failure(415, "UnsupportedMediaType");
    let headers = [("content-type", "application/apply-patch+yaml")];
    let apply = server.call(Method::PATCH, &path, &headers, b"{}".to_vec()).await;
    let message = apply.expect_failure(415, "UnsupportedMediaType");
    assert!(message.contains("server-side apply"), "{message}");
    assert_eq!(server.get(&path).await.expect(200)["metadata"]["generation"], 1);
}

#[tokio::test]
async fn unknown_fields_in_a_patch_are_refused_or_told() {
    let server = Server::start().await;
    server.create(DEPLOYMENTS, deployment("a")).await;
    let patch = json!({"spec": {"replicaz": 3}});
    let strict =
        server.patch(&format!("{DEPLOYMENTS}/a?fieldValidation=Strict"), "merge", patch.clone()).await;
    let message = strict.expect_failure(400, "BadRequest");
    assert!(message.contains("unknown field \"spec.replicaz\""), "{message}");
    let warned = server.patch(&format!("{DEPLOYMENTS}/a"), "merge", patch).await;
    assert!(warned.expect(200)["spec"].get("replicaz").is_none());
    assert!(warned.headers["warning"].to_str().unwrap().contains("spec.replicaz"));
}
