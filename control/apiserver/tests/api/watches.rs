use std::time::Duration;

use serde_json::json;

use crate::support::{CONFIG_MAPS, Events, PODS, Server, TABLE, config_map, pod};

fn expected(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect()
}

async fn newest(server: &Server) -> String {
    let list = server.get("/api/v1/pods").await.expect(200);
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn changes_come_in_order_from_the_given_version() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, config_map("before")).await;
    let from = newest(&server).await;
    let mut events = server.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}")).await;
    server.create(CONFIG_MAPS, config_map("a")).await;
    server.create("/api/v1/namespaces/kube-system/configmaps", config_map("elsewhere")).await;
    server.patch(&format!("{CONFIG_MAPS}/a"), "merge", json!({"data": {"b": "2"}})).await.expect(200);
    server.delete(&format!("{CONFIG_MAPS}/a"), json!({})).await.expect(200);
    let mut versions = Vec::new();
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let event = events.next().await.unwrap();
        assert_eq!(
            (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
            (Some(kind), Some("a"))
        );
        versions
            .push(event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "a deletion has a version of its own: {versions:?}");
}

#[tokio::test]
async fn without_a_version_the_state_comes_first() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, config_map("a")).await;
    server.create(CONFIG_MAPS, config_map("b")).await;
    for query in ["", "&resourceVersion=0"] {
        let mut events = server.watch(&format!("{CONFIG_MAPS}?watch=true{query}")).await;
        assert_eq!(events.take(2).await, expected(&[("ADDED", "a"), ("ADDED", "b")]));
    }
    let streaming =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = server.watch(&format!("{CONFIG_MAPS}?{streaming}")).await;
    events.take(2).await;
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.create(CONFIG_MAPS, config_map("c")).await;
    assert_eq!(events.take(1).await, expected(&[("ADDED", "c")]));
}

#[tokio::test]
async fn who_leaves_the_selection_is_reported_as_deleted() {
    let server = Server::start().await;
    let from = newest(&server).await;
    let path = format!("{PODS}?watch=1&labelSelector=app%3Da&resourceVersion={from}");
    let mut events = server.watch(&path).await;
    server.create(PODS, pod("a")).await;
    server.create(PODS, pod("b")).await;
    let label = |value: &str| json!({"metadata": {"labels": {"app": value}}});
    server.patch(&format!("{PODS}/a"), "merge", label("x")).await.expect(200);
    server.patch(&format!("{PODS}/b"), "merge", label("a")).await.expect(200);
    server.delete(&format!("{PODS}/a"), json!({})).await.expect(200);
    server.delete(&format!("{PODS}/b"), json!({})).await.expect(200);
    assert_eq!(events.take(1).await, expected(&[("ADDED", "a")]));
    let left = events.next().await.unwrap();
    assert_eq!(left["type"], "DELETED");
    assert_eq!(left["object"]["metadata"]["labels"]["app"], "a", "shown as it was last selected");
    assert_eq!(events.take(2).await, expected(&[("ADDED", "b"), ("DELETED", "b")]));
}

#[tokio::test]
async fn field_selectors_follow_a_pod_to_its_node() {
    let server = Server::start().await;
    let from = newest(&server).await;
    let path = format!("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn&resourceVersion={from}");
    let mut events = server.watch(&path).await;
    server.create(PODS, pod("a")).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/a/binding"), binding).await.expect(201);
    let event = events.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), event["object"]["spec"]["nodeName"].as_str()),
        (Some("ADDED"), Some("n"))
    );
}

#[tokio::test]
async fn one_object_can_be_watched_by_its_path() {
    let server = Server::start().await;
    server.create(CONFIG_MAPS, config_map("a")).await;
    server.create(CONFIG_MAPS, config_map("b")).await;
    let mut events = server.watch(&format!("{CONFIG_MAPS}/b?watch=1")).await;
    assert_eq!(events.take(1).await, expected(&[("ADDED", "b")]));
}

#[tokio::test]
async fn a_version_that_is_gone_is_410() {
    use weft_store::Store as _;

    let server = Server::start().await;
    server.create(CONFIG_MAPS, config_map("a")).await;
    server.store.compact(server.store.revision().await.unwrap()).await.unwrap();
    let server = server.restart().await;
    let answer = server.get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    answer.expect_failure(410, "Expired");
    server.get(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=x")).await.expect_failure(400, "BadRequest");
}

#[tokio::test]
async fn a_watch_that_is_too_slow_is_told_to_start_over() {
    let server = Server::start().await;
    let from = newest(&server).await;
    let mut slow = server.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    // More changes than the cache keeps, while nobody reads.
    for round in 0..66 {
        crate::support::all((0..64).map(|n| {
            let name = format!("c{round}-{n}");
            let server = &server;
            async move { server.create(CONFIG_MAPS, config_map(&name)).await }
        }))
        .await;
    }
    let event = last(&mut slow).await;
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    assert_eq!(event["object"]["reason"], "Expired");
}

async fn last(events: &mut Events) -> serde_json::Value {
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    last.unwrap()
}

#[tokio::test]
async fn quiet_watches_get_bookmarks_and_end_in_time() {
    let server = Server::start().await;
    let created = server.create(CONFIG_MAPS, config_map("a")).await;
    let from = created["metadata"]["resourceVersion"].as_str().unwrap();
    // Only now: a paused clock runs ahead while the store's thread works.
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let query = format!("watch=1&resourceVersion={from}&allowWatchBookmarks=true&timeoutSeconds=90");
    let mut events = server.watch(&format!("/api/v1/nodes?{query}")).await;
    for at in [60, 90] {
        let event = events.next().await.unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(event["object"]["kind"], "Node");
        assert!(event["object"]["metadata"]["resourceVersion"].as_str().unwrap() >= from);
        assert_eq!(started.elapsed().as_secs(), at);
    }
    assert!(events.next().await.is_none());
    let query = format!("watch=1&resourceVersion={from}&timeoutSeconds=5");
    let mut events = server.watch(&format!("/api/v1/nodes?{query}")).await;
    assert!(events.next().await.is_none(), "no bookmark for who did not ask");
}

#[tokio::test]
async fn watches_can_be_tables_and_end_with_the_server() {
    let server = Server::start().await;
    server.create(PODS, pod("a")).await;
    let mut events = server.watch_as(&format!("{PODS}?watch=1"), TABLE).await;
    let first = events.next().await.unwrap();
    assert_eq!((first["type"].as_str(), first["object"]["kind"].as_str()), (Some("ADDED"), Some("Table")));
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert!(!first["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    server.create(PODS, pod("b")).await;
    assert!(events.next().await.unwrap()["object"]["columnDefinitions"].as_array().unwrap().is_empty());
    server.shutdown.cancel();
    let end = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap();
    assert!(end.is_none());
}
