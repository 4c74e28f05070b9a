use serde_json::json;

use crate::support::{CONFIG_MAPS, DEPLOYMENTS, PODS, Server, config_map, deployment, names, pod};

#[tokio::test]
async fn an_object_without_obligations_goes_at_once() {
    let server = Server::start().await;
    let created = server.create(CONFIG_MAPS, config_map("a")).await;
    let status = server.delete(&format!("{CONFIG_MAPS}/a"), json!({})).await.expect(200);
    assert_eq!((status["kind"].as_str(), status["status"].as_str()), (Some("Status"), Some("Success")));
    assert_eq!(status["details"]["uid"], created["metadata"]["uid"]);
    server.delete(&format!("{CONFIG_MAPS}/a"), json!({})).await.expect_failure(404, "NotFound");
}

#[tokio::test]
async fn a_running_pod_goes_when_its_agent_says_so() {
    let server = Server::start().await;
    let path = format!("{PODS}/a");
    server.create(PODS, pod("a")).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{path}/binding"), binding).await.expect(201);
    let going = server.delete(&path, json!({"gracePeriodSeconds": 20})).await.expect(200);
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 20);
    let again = server.delete(&path, json!({})).await.expect(200);
    assert_eq!(again["metadata"]["deletionTimestamp"], going["metadata"]["deletionTimestamp"]);
    let agent = server.as_user("system:node:n", &["system:nodes"]);
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": going["metadata"]["uid"]}});
    let body = options.to_string().into_bytes();
    crate::support::call(&agent, http::Method::DELETE, &path, &[], body).await.expect(200);
    server.get(&path).await.expect_failure(404, "NotFound");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    let mut body = config_map("a");
    body["metadata"]["finalizers"] = json!(["example.com/x"]);
    server.create(CONFIG_MAPS, body).await;
    let path = format!("{CONFIG_MAPS}/a");
    let going = server.delete(&path, json!({})).await.expect(200);
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(server.delete(&path, json!({})).await.expect(200), going);
    server.patch(&path, "merge", json!({"metadata": {"finalizers": null}})).await.expect(200);
    server.get(&path).await.expect_failure(404, "NotFound");
}

#[tokio::test]
async fn propagation_policies_become_finalizers() {
    let server = Server::start().await;
    for (name, policy, finalizers) in
        [("a", "Foreground", json!(["foregroundDeletion"])), ("b", "Orphan", json!(["orphan"]))]
    {
        server.create(DEPLOYMENTS, deployment(name)).await;
        let path = format!("{DEPLOYMENTS}/{name}");
        let going = server.delete(&path, json!({"propagationPolicy": policy})).await.expect(200);
        assert_eq!(going["metadata"]["finalizers"], finalizers);
        assert_eq!(going["metadata"]["generation"], 2);
    }
    server.create(DEPLOYMENTS, deployment("c")).await;
    let path = format!("{DEPLOYMENTS}/c");
    server.delete(&format!("{path}?propagationPolicy=Background"), json!({})).await.expect(200);
    server.get(&path).await.expect_failure(404, "NotFound");
}

#[tokio::test]
async fn preconditions_protect_from_deleting_another() {
    let server = Server::start().await;
    let created = server.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    for wrong in [json!({"uid": "x"}), json!({"resourceVersion": "1"})] {
        server.delete(&path, json!({"preconditions": wrong})).await.expect_failure(409, "Conflict");
    }
    let right = json!({"uid": created["metadata"]["uid"]});
    server.delete(&path, json!({"preconditions": right})).await.expect(200);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.create(PODS, pod(name)).await;
    }
    let list = server.delete(&format!("{PODS}?labelSelector=app%20in%20(a,b)"), json!({})).await.expect(200);
    assert_eq!(names(&list), ["a", "b"]);
    assert_eq!(names(&server.get(PODS).await.expect(200)), ["c"]);
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized_and_takes_nothing_new() {
    let server = Server::start().await;
    let path = "/api/v1/namespaces/n";
    let created = server.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    server.create(&format!("{path}/configmaps"), config_map("a")).await;
    let going = server.delete(path, json!({})).await.expect(200);
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = server.post(&format!("{path}/configmaps"), config_map("b")).await;
    let message = refused.expect_failure(403, "Forbidden");
    assert!(message.contains("because it is being terminated"), "{message}");
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut done = going.clone();
    done["spec"]["finalizers"] = json!([]);
    server.put(&format!("{path}/finalize"), done).await.expect(200);
    server.get(path).await.expect_failure(404, "NotFound");
    let message =
        server.post(&format!("{path}/configmaps"), config_map("b")).await.expect_failure(404, "NotFound");
    assert_eq!(message, "namespaces \"n\" not found");
    server.delete("/api/v1/namespaces/default", json!({})).await.expect_failure(403, "Forbidden");
}
