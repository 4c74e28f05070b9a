use http::Method;
use serde_json::{Value, json};

use crate::support::{PODS, Server, call, pod};

async fn bound(server: &Server, name: &str, node: &str) {
    server.create(PODS, pod(name)).await;
    let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
    server.post(&format!("{PODS}/{name}/binding"), binding).await.expect(201);
}

#[tokio::test]
async fn users_without_rights_are_told_what_they_may_not() {
    let server = Server::start().await;
    let alice = server.as_user("alice", &["dev"]);
    let answer = call(&alice, Method::GET, PODS, &[], Vec::new()).await;
    assert_eq!(
        answer.expect_failure(403, "Forbidden"),
        "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    call(&alice, Method::GET, "/metrics", &[], Vec::new()).await.expect_failure(403, "Forbidden");
    call(&alice, Method::GET, "/apis", &[], Vec::new()).await.expect(200);
}

#[tokio::test]
async fn a_node_changes_only_its_own() {
    let server = Server::start().await;
    bound(&server, "mine", "n").await;
    bound(&server, "other", "m").await;
    let agent = server.as_user("system:node:n", &["system:nodes"]);
    let patch = |path: String, body: Value| {
        let agent = agent.clone();
        let headers = [("content-type", "application/merge-patch+json")];
        async move { call(&agent, Method::PATCH, &path, &headers, body.to_string().into_bytes()).await }
    };
    let running = json!({"status": {"phase": "Running"}});
    patch(format!("{PODS}/mine/status"), running.clone()).await.expect(200);
    patch(format!("{PODS}/other/status"), running).await.expect_failure(403, "Forbidden");
    let note = json!({"metadata": {"annotations": {"a": "b"}}});
    patch(format!("{PODS}/mine"), note.clone()).await.expect(200);
    patch(format!("{PODS}/other"), note).await.expect_failure(403, "Forbidden");
    let image = json!({"spec": {"activeDeadlineSeconds": 5}});
    patch(format!("{PODS}/mine"), image).await.expect_failure(403, "Forbidden");
    let post = |path: &'static str, name: &'static str| {
        let (agent, body) = (agent.clone(), json!({"metadata": {"name": name}}).to_string().into_bytes());
        async move { call(&agent, Method::POST, path, &[], body).await }
    };
    for path in ["/api/v1/nodes", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"] {
        post(path, "m").await.expect_failure(403, "Forbidden");
        post(path, "n").await.expect(201);
    }
    for (method, path, code) in [
        (Method::GET, PODS.to_owned(), 200),
        (Method::DELETE, format!("{PODS}/other"), 403),
        (Method::DELETE, format!("{PODS}/mine"), 200),
        (Method::DELETE, PODS.to_owned(), 403),
    ] {
        assert_eq!(call(&agent, method.clone(), &path, &[], Vec::new()).await.code, code, "{method} {path}");
    }
}

#[tokio::test]
async fn only_administrators_act_as_others() {
    let server = Server::start().await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [("impersonate-user", "bob"), ("impersonate-group", "ops")];
    let answer = server.call(Method::POST, path, &headers, b"{}".to_vec()).await.expect(201);
    assert_eq!(answer["status"]["userInfo"]["username"], "bob");
    assert_eq!(answer["status"]["userInfo"]["groups"], json!(["ops", "system:authenticated"]));
    server.call(Method::GET, PODS, &headers, Vec::new()).await.expect_failure(403, "Forbidden");
    let alice = server.as_user("alice", &[]);
    call(&alice, Method::POST, path, &headers, b"{}".to_vec()).await.expect_failure(403, "Forbidden");
}
