//! Runtime values that a server changes while everything else stays (RTDS).

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_xds::{ResourceType, pb::google::protobuf::Any, server::Snapshot};

use crate::support::{
    Proxy, bootstrap,
    control::{Control, any, eventually, named},
    raw, statuses,
};

fn values(layer: Value) -> Any {
    any("envoy.service.runtime.v3.Runtime", json!({"name": "live", "layer": layer}))
}

fn snapshot(layer: Value) -> Snapshot {
    Snapshot { runtimes: named("live", values(layer)), ..Snapshot::default() }
}

async fn status(address: SocketAddr) -> String {
    let answer = raw(address, "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    statuses(&answer).concat()
}

/// A listener in the file whose only route is for a share of requests that a key decides.
fn by_key(control: &Control, api: &str, layers: &str) -> String {
    let with_route = bootstrap(&[], "", "", "").replace(
        "match: { prefix: / }",
        "match: { prefix: /, runtime_fraction: { default_value: { numerator: 0 }, runtime_key: open.share } }",
    );
    let ads = control.bootstrap_by(api).replace("  lds_config: { ads: {} }\n  cds_config: { ads: {} }\n", "");
    format!("layered_runtime: {{ layers: [{layers}] }}\n{ads}{with_route}")
}

const LIVE: &str = "{ name: live, rtds_layer: { name: live, rtds_config: { ads: {} } } }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_follows_its_key_through_updates_refusals_and_removal() {
    for api in ["DELTA_GRPC", "GRPC"] {
        let control = Control::start().await;
        control.cache.set("p", snapshot(json!({"open": {"share": 100}, "other": "x"})));
        let layers = format!("{{ name: base, static_layer: {{ open.share: 0, own: true }} }}, {LIVE}");
        let proxy = Proxy::start(&by_key(&control, api, &layers)).await;
        eventually("the listener is there", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
        let address = proxy.at("http");
        // There is a route, and nobody behind it.
        assert_eq!(status(address).await, "503", "{api}: what came before the first request counts for it");
        let shown: Value = serde_json::from_str(&proxy.admin("GET", "/runtime").await).expect("JSON");
        assert_eq!(shown["layers"], json!(["base", "live"]));
        assert_eq!(
            shown["entries"]["open.share"],
            json!({"layer_values": ["0", "100"], "final_value": "100"})
        );
        assert_eq!(shown["entries"]["own"], json!({"layer_values": ["true", ""], "final_value": "true"}));

        control.cache.set("p", snapshot(json!({"open.share": {"numerator": 0, "denominator": "MILLION"}})));
        eventually("the route is closed", async || status(address).await == "404").await;
        control.cache.set("p", snapshot(json!({"open.share": 100})));
        eventually("the route is open", async || status(address).await == "503").await;

        control.cache.set("p", snapshot(json!({"open.share": 0, "upstream.healthy_panic_threshold": 1})));
        let refusal = async || {
            let status = control.cache.status("p").expect("known");
            status.types.get(&ResourceType::Runtime).and_then(|status| status.last_nack.clone())
        };
        eventually("a refusal", async || refusal().await.is_some()).await;
        let message = refusal().await.expect("it was there").message;
        let expected = "runtime.live.layer.upstream.healthy_panic_threshold: is not supported";
        assert!(message.contains(expected), "{api}: {message}");
        assert_eq!(status(address).await, "503", "{api}: the last good values stay");
        assert_eq!(proxy.metric("envoy_runtime_update_rejected").await, 1.0);

        if api == "DELTA_GRPC" {
            control.cache.set("p", Snapshot::default());
            eventually("the static layer counts again", async || status(address).await == "404").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_listens_before_its_runtime_values_came_or_were_waited_for_long_enough() {
    let control = Control::start().await;
    let layer =
        |timeout: &str| LIVE.replace("ads: {}", &format!("ads: {{}}, initial_fetch_timeout: {timeout}"));
    let impatient = Proxy::start(&by_key(&control, "DELTA_GRPC", &layer("0.1s"))).await;
    let patient = Proxy::start(&by_key(&control, "DELTA_GRPC", &layer("0s"))).await;
    eventually("ready", async || impatient.admin("GET", "/ready").await == "LIVE\n").await;
    assert_eq!(status(impatient.at("http")).await, "404");
    assert_eq!(patient.admin("GET", "/ready").await, "INITIALIZING\n");
    control.cache.set("p", snapshot(json!({"open.share": 100})));
    eventually("both have them", async || {
        patient.admin("GET", "/ready").await == "LIVE\n" && status(impatient.at("http")).await == "503"
    })
    .await;
    assert_eq!(status(patient.at("http")).await, "503");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtime_values_come_from_a_file_and_follow_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rtds.json");
    let put = |share: u32| {
        let resource = json!({"@type": "type.googleapis.com/envoy.service.runtime.v3.Runtime", "name": "live",
            "layer": {"open.share": share}});
        let next = folder.path().join("next");
        std::fs::write(&next, json!({"resources": [resource]}).to_string()).expect("written");
        std::fs::rename(next, &file).expect("moved");
    };
    put(100);
    let control = Control::start().await;
    let layer =
        LIVE.replace("ads: {}", &format!("path_config_source: {{ path: {:?} }}", file.display().to_string()));
    let proxy = Proxy::start(&by_key(&control, "DELTA_GRPC", &layer)).await;
    assert_eq!(status(proxy.at("http")).await, "503");
    put(0);
    eventually("the file is followed", async || status(proxy.at("http")).await == "404").await;
}
