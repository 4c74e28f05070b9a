use http::Method;
use serde_json::json;

use crate::support::{DEPLOYMENTS, PODS, Server, call, deployment, names, pod};

#[tokio::test]
async fn status_is_written_apart_from_the_rest() {
    let server = Server::start().await;
    server.create(DEPLOYMENTS, deployment("a")).await;
    let path = format!("{DEPLOYMENTS}/a");
    let patch = json!({"spec": {"replicas": 9}, "status": {"replicas": 1, "observedGeneration": 1}});
    let main = server.patch(&path, "merge", patch.clone()).await.expect(200);
    assert_eq!((main["spec"]["replicas"].as_i64(), main["status"].get("replicas")), (Some(9), None));
    let status = server.patch(&format!("{path}/status"), "strategic-merge", patch).await.expect(200);
    assert_eq!(status["status"]["replicas"], 1);
    let mut replaced = status.clone();
    replaced["status"]["replicas"] = json!(2);
    replaced["spec"]["replicas"] = json!(1);
    let replaced = server.put(&format!("{path}/status"), replaced).await.expect(200);
    assert_eq!(
        (replaced["spec"]["replicas"].as_i64(), replaced["status"]["replicas"].as_i64()),
        (Some(9), Some(2))
    );
    assert_eq!(server.get(&format!("{path}/status")).await.expect(200), replaced);
}

#[tokio::test]
async fn scale_shows_and_sets_replicas() {
    let server = Server::start().await;
    server.create(DEPLOYMENTS, deployment("a")).await;
    let path = format!("{DEPLOYMENTS}/a/scale");
    let scale = server.get(&path).await.expect(200);
    assert_eq!(
        (scale["kind"].as_str(), scale["apiVersion"].as_str()),
        (Some("Scale"), Some("autoscaling/v1"))
    );
    assert_eq!(
        (scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()),
        (Some(2), Some("app=a"))
    );
    let patched = server.patch(&path, "merge", json!({"spec": {"replicas": 4}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 4);
    server.put(&path, scale).await.expect_failure(409, "Conflict");
    let mut fresh = patched;
    fresh["spec"]["replicas"] = json!(0);
    assert_eq!(server.put(&path, fresh).await.expect(200)["spec"], json!({"replicas": 0}));
    server.patch(&path, "merge", json!({"spec": {"replicas": -1}})).await.expect_failure(422, "Invalid");
    server.patch(&path, "merge", json!({"spec": {"replicas": "x"}})).await.expect_failure(422, "Invalid");
    assert_eq!(server.get(&format!("{DEPLOYMENTS}/a")).await.expect(200)["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = Server::start().await;
    server.create(PODS, pod("a")).await;
    let path = format!("{PODS}/a/binding");
    let binding = |node: &str| json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": node}});
    server.post(&path, binding("n")).await.expect(201);
    let bound = server.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let message = server.post(&path, binding("m")).await.expect_failure(409, "Conflict");
    assert!(message.contains("already assigned to node \"n\""), "{message}");
    server.post(&path, binding("")).await.expect_failure(422, "Invalid");
    server.get(&path).await.expect_failure(405, "MethodNotAllowed");
}

#[tokio::test]
async fn evictions_delete() {
    let server = Server::start().await;
    server.create(PODS, pod("a")).await;
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"},
        "deleteOptions": {"preconditions": {"uid": "x"}},
    });
    let path = format!("{PODS}/a/eviction");
    server.post(&path, eviction).await.expect_failure(409, "Conflict");
    server.post(&path, json!({"metadata": {"name": "a"}})).await.expect(201);
    assert!(names(&server.get(PODS).await.expect(200)).is_empty());
}

#[tokio::test]
async fn logs_of_pods_that_nobody_runs_say_so() {
    let server = Server::start().await;
    server.create(PODS, pod("a")).await;
    let path = format!("{PODS}/a/log");
    let message = server.get(&path).await.expect_failure(400, "BadRequest");
    assert!(message.contains("does not have a host"), "{message}");
    server.get(&format!("{path}?container=zzz")).await.expect_failure(400, "BadRequest");
    let node = json!({"metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}},
    }});
    server.create("/api/v1/nodes", node).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/a/binding"), binding).await.expect(201);
    server.get(&path).await.expect_failure(503, "ServiceUnavailable");
    server.get(&format!("{path}?tailLines=x")).await.expect_failure(400, "BadRequest");
    server.get("/api/v1/nodes/n/proxy/metrics").await.expect_failure(503, "ServiceUnavailable");
    server.get("/api/v1/nodes/m/proxy/metrics").await.expect_failure(404, "NotFound");
    server.get("/api/v1/nodes/n/proxy/../../x").await.expect_failure(400, "BadRequest");
}

#[tokio::test]
async fn reviews_answer_about_the_caller() {
    let server = Server::start().await;
    let authorization = "/apis/authorization.k8s.io/v1";
    let question = json!({"spec": {"resourceAttributes": {"verb": "create", "resource": "pods"}}});
    let path = format!("{authorization}/selfsubjectaccessreviews");
    assert_eq!(server.post(&path, question.clone()).await.expect(201)["status"]["allowed"], true);
    let alice = server.as_user("alice", &["dev"]);
    let ask = |path: String, body: serde_json::Value| {
        let alice = alice.clone();
        async move { call(&alice, Method::POST, &path, &[], body.to_string().into_bytes()).await.expect(201) }
    };
    assert_eq!(ask(path.clone(), question).await["status"]["allowed"], false);
    let rules =
        ask(format!("{authorization}/selfsubjectrulesreviews"), json!({"spec": {"namespace": "x"}})).await;
    assert_eq!(rules["status"]["incomplete"], false);
    let me = ask("/apis/authentication.k8s.io/v1/selfsubjectreviews".into(), json!({})).await;
    assert_eq!(me["status"]["userInfo"]["username"], "alice");
    assert_eq!(me["status"]["userInfo"]["groups"], json!(["dev", "system:authenticated"]));
    let tokens = std::fs::read_to_string(server.directory.path().join("tokens.csv")).unwrap();
    let token = tokens.split(',').next().unwrap();
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = server.create(path, json!({"spec": {"token": token}})).await;
    assert_eq!(review["status"]["user"]["username"], "admin");
    let review = server.create(path, json!({"spec": {"token": "x"}})).await;
    assert_eq!(review["status"]["authenticated"], false);
    server.get(path).await.expect_failure(405, "MethodNotAllowed");
}
