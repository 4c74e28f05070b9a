//! Virtual hosts that come when they are first asked for (VHDS).

use std::time::Instant;

use serde_json::{Value, json};
use weft_xds::{
    ResourceType,
    pb::google::protobuf::Any,
    server::{Snapshot, TypeStatus},
};

use crate::support::{
    Proxy,
    control::{Control, any, eventually, free_port, named},
    raw, statuses,
};

fn host(name: &str, domain: &str, status: u16) -> Value {
    json!({"name": name, "domains": [domain],
        "routes": [{"match": {"prefix": "/here"}, "direct_response": {"status": status}}]})
}

fn resource(name: &str, domain: &str, status: u16) -> (String, Any) {
    (name.to_owned(), any("envoy.config.route.v3.VirtualHost", host(name, domain, status)))
}

fn snapshot(port: u16, hosts: &[(String, Any)]) -> Snapshot {
    const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "rds": {"config_source": {"ads": {}}, "route_config_name": "r"},
        "http_filters": [
            {"name": "envoy.filters.http.on_demand", "typed_config": {"@type": format!("{HTTP}.on_demand.v3.OnDemand")}},
            {"name": "router", "typed_config": {"@type": format!("{HTTP}.router.v3.Router")}},
        ],
    });
    let listener = json!({
        "name": "web",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    });
    let routes = json!({"name": "r", "vhds": {"config_source": {"ads": {}}}, "virtual_hosts": [host("s", "static", 200)]});
    Snapshot {
        listeners: named("web", any("envoy.config.listener.v3.Listener", listener)),
        routes: named("r", any("envoy.config.route.v3.RouteConfiguration", routes)),
        virtual_hosts: hosts.iter().cloned().collect(),
        ..Snapshot::default()
    }
}

async fn ask(port: u16, host: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    statuses(&raw(([127, 0, 0, 1], port).into(), &request).await).concat()
}

async fn status(port: u16, host: &str) -> String {
    ask(port, host, "/here").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_comes_with_its_first_request_which_waits_for_it() {
    let control = Control::start().await;
    let port = free_port();
    let known =
        || vec![resource("r/a", "a", 201), resource("r/b", "b", 202), resource("r/c:80", "c:80", 203)];
    control.cache.set("p", snapshot(port, &known()));
    let proxy = Proxy::start(&control.bootstrap()).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    let of_hosts = || -> Option<TypeStatus> {
        control.cache.status("p").expect("known").types.get(&ResourceType::VirtualHost).cloned()
    };
    let acked = || of_hosts().map_or_else(Vec::new, |status| status.acked.into_keys().collect());
    let nack = || of_hosts().and_then(|status| status.last_nack);
    assert_eq!(status(port, "static").await, "200");
    assert!(acked().is_empty(), "nobody asked");

    // Many at once, and each gets the host's answer.
    let all: Vec<_> = (0..20).map(|_| tokio::spawn(status(port, "A"))).collect();
    for one in all {
        assert_eq!(one.await.expect("done"), "201");
    }
    assert_eq!(status(port, "c:80").await, "203", "as Envoy: the port is part of the name");
    eventually("only what was asked for", async || acked() == ["r/a", "r/c:80"]).await;
    let begin = Instant::now();
    assert_eq!(status(port, "nowhere").await, "404");
    assert_eq!(ask(port, "a", "/elsewhere").await, "404", "there is the host, and no route");
    assert!(begin.elapsed().as_secs() < 5, "who does not exist is not waited for");

    // What is in use is followed.
    let mut changed = known();
    changed[0] = resource("r/a", "a", 204);
    changed.push(resource("r/nowhere", "nowhere", 205));
    control.cache.set("p", snapshot(port, &changed));
    eventually("the change", async || status(port, "a").await == "204").await;
    assert_eq!(status(port, "nowhere").await, "205", "asked for anew");
    changed[0] = resource("r/a", "static", 206);
    control.cache.set("p", snapshot(port, &changed));
    eventually("a refusal", async || nack().is_some()).await;
    let message = nack().expect("it was there").message;
    assert!(
        message.contains("virtual-host.r/a.domains: domain \"static\" is in more than one place"),
        "{message}"
    );
    assert_eq!((status(port, "a").await.as_str(), status(port, "static").await.as_str()), ("204", "200"));
    changed.remove(0);
    control.cache.set("p", snapshot(port, &changed));
    eventually("it is gone", async || status(port, "a").await == "404").await;
    assert_eq!(status(port, "b").await, "202");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn virtual_hosts_by_themselves_need_an_incremental_stream() {
    let control = Control::start().await;
    control.cache.set("p", snapshot(free_port(), &[]));
    let _proxy = Proxy::start(&control.bootstrap_by("GRPC")).await;
    eventually("a refusal", async || {
        let status = control.cache.status("p");
        let nack =
            status.and_then(|mut status| status.types.remove(&ResourceType::RouteConfiguration)?.last_nack);
        nack.is_some_and(|nack| {
            nack.message.contains("route.r.vhds.config_source: needs an incremental stream (DELTA_GRPC)")
        })
    })
    .await;
}
