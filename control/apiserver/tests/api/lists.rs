use serde_json::json;

use crate::support::{CONFIG_MAPS, PODS, Server, config_map, names, pod};

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let server = Server::start().await;
    for name in ["a", "b", "c"] {
        server.create(PODS, pod(name)).await;
    }
    let list = |query: &str| {
        let path = format!("/api/v1/pods?{query}");
        let server = &server;
        async move { names(&server.get(&path).await.expect(200)) }
    };
    assert_eq!(list("labelSelector=app%20in%20(a,c)").await, ["a", "c"]);
    assert_eq!(list("labelSelector=app!%3Da").await, ["b", "c"]);
    assert_eq!(list("fieldSelector=metadata.name%3Db").await, ["b"]);
    assert_eq!(list("fieldSelector=status.phase%3DPending,spec.nodeName%3D").await, ["a", "b", "c"]);
    assert_eq!(list("fieldSelector=status.phase!%3DPending").await, [""; 0]);
    let all = server.get("/api/v1/namespaces/kube-system/pods").await.expect(200);
    assert_eq!(all["kind"], "PodList");
    assert!(names(&all).is_empty());
    server.get("/api/v1/pods?fieldSelector=spec.nope%3D1").await.expect_failure(400, "BadRequest");
}

#[tokio::test]
async fn pages_show_one_state() {
    let server = Server::start().await;
    for n in 0..7 {
        server.create(CONFIG_MAPS, config_map(&format!("c{n}"))).await;
    }
    let first = server.get(&format!("{CONFIG_MAPS}?limit=3")).await.expect(200);
    assert_eq!(names(&first), ["c0", "c1", "c2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    server.delete(&format!("{CONFIG_MAPS}/c4"), json!({})).await.expect(200);
    server.create(CONFIG_MAPS, config_map("c9")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{CONFIG_MAPS}?limit=3&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c3", "c4", "c5"]);
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let last = server.get(&format!("{CONFIG_MAPS}?limit=3&continue={token}")).await.expect(200);
    assert_eq!(names(&last), ["c6"]);
    assert!(last["metadata"].get("continue").is_none());
    server.get(&format!("{CONFIG_MAPS}?continue=rubbish")).await.expect_failure(400, "BadRequest");
}

#[tokio::test]
async fn an_expired_page_is_410_with_a_token_that_goes_on() {
    use weft_store::Store as _;

    let server = Server::start().await;
    for n in 0..4 {
        server.create(CONFIG_MAPS, config_map(&format!("c{n}"))).await;
    }
    let first = server.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    server.create(CONFIG_MAPS, config_map("c9")).await;
    server.store.compact(server.store.revision().await.unwrap()).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let gone = server.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    gone.expect_failure(410, "Expired");
    let fresh = gone.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = server.get(&format!("{CONFIG_MAPS}?continue={fresh}")).await.expect(200);
    assert_eq!(names(&rest), ["c2", "c3", "c9"]);
    let old = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={old}&resourceVersionMatch=Exact");
    server.get(&exact).await.expect_failure(410, "Expired");
}

#[tokio::test]
async fn a_list_is_as_fresh_as_it_is_asked_to_be() {
    let server = Server::start().await;
    let created = server.create(CONFIG_MAPS, config_map("a")).await;
    let at = created["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    server.create(CONFIG_MAPS, config_map("b")).await;
    assert_eq!(names(&server.get(CONFIG_MAPS).await.expect(200)), ["a", "b"]);
    server.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.expect(200);
    let exact = format!("{CONFIG_MAPS}?resourceVersion={at}&resourceVersionMatch=Exact");
    assert_eq!(names(&server.get(&exact).await.expect(200)), ["a"]);
    let newer = format!("{CONFIG_MAPS}?resourceVersion={at}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&server.get(&newer).await.expect(200)), ["a", "b"]);
    server.get(&format!("{CONFIG_MAPS}?resourceVersion=x")).await.expect_failure(400, "BadRequest");
}

#[tokio::test]
async fn a_revision_from_the_future_is_waited_for_and_then_refused() {
    let server = Server::start().await;
    tokio::time::pause();
    let answer = server.get(&format!("{CONFIG_MAPS}?resourceVersion=99999")).await;
    let message = answer.expect_failure(504, "Timeout");
    assert!(message.contains("Too large resource version"), "{message}");
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn long_lists_arrive_whole() {
    let server = Server::start().await;
    let mut body = config_map("x");
    body["data"]["a"] = json!("x".repeat(20_000));
    for n in 0..20 {
        body["metadata"]["name"] = json!(format!("c{n:02}"));
        server.create(CONFIG_MAPS, body.clone()).await;
    }
    assert_eq!(names(&server.get(CONFIG_MAPS).await.expect(200)).len(), 20);
}
