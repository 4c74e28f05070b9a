use http::Method;
use serde_json::json;

use crate::support::{
    CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES, Server, TABLE, all, config_map, deployment, pod,
};

#[tokio::test]
async fn a_created_object_gets_what_is_the_servers_to_give() {
    let server = Server::start().await;
    let mut body = pod("a");
    body["metadata"]["uid"] = json!("mine");
    body["status"] = json!({"phase": "Running"});
    let created = server.create(PODS, body).await;
    let metadata = &created["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(metadata["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(metadata["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 1);
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["spec"]["restartPolicy"], "Always");
    assert_eq!(created["spec"]["serviceAccountName"], "default");
    assert_eq!(server.get(&format!("{PODS}/a")).await.expect(200), created);
    server.post(PODS, pod("a")).await.expect_failure(409, "AlreadyExists");
}

#[tokio::test]
async fn names_are_generated_without_collisions() {
    let server = Server::start().await;
    let mut body = config_map("x");
    body["metadata"] = json!({"generateName": "gen-"});
    let made = all((0..50).map(|_| server.create(CONFIG_MAPS, body.clone()))).await;
    let names: std::collections::BTreeSet<_> =
        made.iter().map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names.len(), 50);
    assert!(names.iter().all(|name| name.starts_with("gen-")));
}

#[tokio::test]
async fn an_update_with_an_old_version_is_refused_and_one_without_is_not() {
    let server = Server::start().await;
    let first = server.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut second = first.clone();
    second["data"]["a"] = json!("2");
    let second = server.put(&path, second).await.expect(200);
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let mut stale = first.clone();
    stale["data"]["a"] = json!("3");
    let message = server.put(&path, stale).await.expect_failure(409, "Conflict");
    assert!(message.contains("the object has been modified"), "{message}");
    let blind = server.put(&path, config_map("a")).await.expect(200);
    assert_eq!(blind["metadata"]["uid"], first["metadata"]["uid"]);
    server.put(&format!("{CONFIG_MAPS}/b"), config_map("b")).await.expect_failure(404, "NotFound");
    server.put(&path, config_map("b")).await.expect_failure(400, "BadRequest");
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let server = Server::start().await;
    let created = server.create(DEPLOYMENTS, deployment("a")).await;
    let updated = server.put(&format!("{DEPLOYMENTS}/a"), created.clone()).await.expect(200);
    assert_eq!(created, updated);
    let patched =
        server.patch(&format!("{DEPLOYMENTS}/a"), "merge", json!({"metadata": {}})).await.expect(200);
    assert_eq!(created, patched);
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_specification_only() {
    let server = Server::start().await;
    let created = server.create(DEPLOYMENTS, deployment("a")).await;
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/a");
    let labelled =
        server.patch(&path, "merge", json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = server.patch(&path, "merge", json!({"spec": {"replicas": 5}})).await.expect(200);
    assert_eq!(scaled["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_dry_run_answers_and_changes_nothing() {
    let server = Server::start().await;
    let dry = server.post(&format!("{PODS}?dryRun=All"), pod("a")).await.expect(201);
    assert_eq!(dry["spec"]["restartPolicy"], "Always");
    server.get(&format!("{PODS}/a")).await.expect_failure(404, "NotFound");
    let created = server.create(PODS, pod("a")).await;
    server.post(&format!("{PODS}?dryRun=All"), pod("a")).await.expect_failure(409, "AlreadyExists");
    let patch = json!({"metadata": {"labels": {"x": "y"}}});
    let dry = server.patch(&format!("{PODS}/a?dryRun=All"), "merge", patch).await.expect(200);
    assert_eq!(dry["metadata"]["labels"]["x"], "y");
    server.delete(&format!("{PODS}/a?dryRun=All"), json!({})).await.expect(200);
    server.delete(&format!("{PODS}/a"), json!({"dryRun": ["All"]})).await.expect(200);
    assert_eq!(server.get(&format!("{PODS}/a")).await.expect(200), created);
}

#[tokio::test]
async fn yaml_is_as_good_as_json() {
    let server = Server::start().await;
    let body = b"kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: yaml\ndata:\n  a: 'b'\n".to_vec();
    let answer = server.call(Method::POST, CONFIG_MAPS, &[("content-type", "application/yaml")], body).await;
    assert_eq!(answer.expect(201)["data"]["a"], "b");
}

#[tokio::test]
async fn services_get_addresses_of_their_own_and_give_them_back() {
    let server = Server::start().await;
    let service = |name: &str, ip: &str| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let first = server.create(SERVICES, service("a", "")).await;
    let ip = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."), "{ip}");
    assert_eq!(first["spec"]["clusterIPs"], json!([ip]));
    let message = server.post(SERVICES, service("b", &ip)).await.expect_failure(422, "Invalid");
    assert!(message.contains("already allocated"), "{message}");
    assert_eq!(server.create(SERVICES, service("c", "None")).await["spec"]["clusterIP"], "None");
    server.delete(&format!("{SERVICES}/a"), json!({})).await.expect(200);
    assert_eq!(server.create(SERVICES, service("b", &ip)).await["spec"]["clusterIP"], ip.as_str());
    let server = server.restart().await;
    server.post(SERVICES, service("d", &ip)).await.expect_failure(422, "Invalid");
    let kubernetes = server.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let server = Server::start().await;
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "weft.dev/test", "reportingInstance": "x", "action": "Test", "reason": "Testing",
        "type": "Normal", "note": "hello",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default", "apiVersion": "v1"},
    });
    let created = server.create(events, event).await;
    assert_eq!(created["apiVersion"], "events.k8s.io/v1");
    assert_eq!(created["note"], "hello");
    let core = server.get("/api/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!(core["message"], "hello");
    assert_eq!(core["involvedObject"]["name"], "p");
    let list = server.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp").await;
    assert_eq!(list.expect(200)["items"].as_array().unwrap().len(), 1);
    let list = server.get(&format!("{events}?fieldSelector=regarding.name%3Dp")).await.expect(200);
    assert_eq!(list["items"][0]["note"], "hello");
}

#[tokio::test]
async fn concurrent_patches_are_all_kept() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let codes = all((0..24).map(|n| {
        let (server, path) = (&server, &path);
        async move {
            server.patch(path, "merge", json!({"data": {format!("k{n}"): "v"}})).await.expect(200);
        }
    }))
    .await;
    assert_eq!(codes.len(), 24);
    let object = server.get(&path).await.expect(200);
    assert_eq!(object["data"].as_object().unwrap().len(), 25);
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let server = Server::start().await;
    let created = server.create(CONFIG_MAPS, config_map("a")).await;
    let server = server.restart().await;
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.expect(200), created);
    let from = created["metadata"]["resourceVersion"].as_str().unwrap();
    server.create(CONFIG_MAPS, config_map("b")).await;
    let mut events = server.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    assert_eq!(events.take(1).await, [("ADDED".to_owned(), "b".to_owned())]);
}

#[tokio::test]
async fn tables_and_metadata_are_shown_where_asked_for() {
    let server = Server::start().await;
    server.create(PODS, pod("a")).await;
    let table = server.get_as(&format!("{PODS}/a"), TABLE).await.expect(200);
    assert_eq!(table["kind"], "Table");
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(columns[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let full = server.get_as(&format!("{PODS}?includeObject=Object"), TABLE).await.expect(200);
    assert_eq!(full["rows"][0]["object"]["kind"], "Pod");
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = server.get_as(PODS, metadata).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert!(list["items"][0].get("spec").is_none());
    server
        .get_as(PODS, "application/json;as=Chair;g=meta.k8s.io;v=v1")
        .await
        .expect_failure(406, "NotAcceptable");
}
