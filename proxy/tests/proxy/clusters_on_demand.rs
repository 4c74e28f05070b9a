//! Clusters that come when they are first asked for (ODCDS).

use std::time::Instant;

use serde_json::json;
use weft_xds::ResourceType;

use crate::support::{
    Proxy, Upstream,
    control::{Control, any, eventually, free_port, named, snapshot},
    raw, statuses,
};

async fn ask(port: u16, path: &str, cluster: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: w\r\nx-cluster: {cluster}\r\nConnection: close\r\n\r\n");
    statuses(&raw(([127, 0, 0, 1], port).into(), &request).await).concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_with_its_first_request_which_waits_for_it_and_its_endpoints() {
    const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";
    let control = Control::start().await;
    let upstream = Upstream::echo().await;
    let port = free_port();
    let filter = "envoy.filters.http.on_demand";
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "rds": {"config_source": {"ads": {}}, "route_config_name": "r"},
        "http_filters": [
            {"name": filter, "typed_config": {"@type": format!("{HTTP}.on_demand.v3.OnDemand"),
                "odcds": {"source": {"ads": {}}}}},
            {"name": "router", "typed_config": {"@type": format!("{HTTP}.router.v3.Router")}},
        ],
    });
    let listener = json!({
        "name": "web",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    });
    let off = json!({filter: {"@type": format!("{HTTP}.on_demand.v3.PerRouteConfig")}});
    let routes = json!({"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/off"}, "route": {"cluster_header": "x-cluster"}, "typed_per_filter_config": off},
        {"match": {"prefix": "/named"}, "route": {"cluster": "c"}},
        {"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}},
    ]}]});
    let mut given = snapshot(port, "web", &[upstream.address]);
    given.listeners = named("web", any("envoy.config.listener.v3.Listener", listener));
    given.routes = named("r", any("envoy.config.route.v3.RouteConfiguration", routes));
    control.cache.set("p", given.clone());
    // Nothing is there but what was asked for.
    let bootstrap = control.bootstrap().replace("  cds_config: { ads: {} }\n", "");
    let proxy = Proxy::start(&bootstrap).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    assert!(!control.cache.status("p").expect("known").types.contains_key(&ResourceType::Cluster));
    assert_eq!(ask(port, "/off", "c").await, "503", "the route says that nothing is asked for");
    let begin = Instant::now();
    assert_eq!(ask(port, "/", "nowhere").await, "503");
    assert!(begin.elapsed().as_secs() < 4, "what does not exist is not waited for");
    let all: Vec<_> = (0..10).map(|_| tokio::spawn(ask(port, "/", "c"))).collect();
    for one in all {
        assert_eq!(one.await.expect("done"), "200");
    }
    assert_eq!(ask(port, "/off", "c").await, "200", "by now it is there for everybody");
    assert_eq!(ask(port, "/named", "").await, "200");
    given.clusters.clear();
    control.cache.set("p", given.clone());
    eventually("it is gone", async || ask(port, "/off", "c").await == "503").await;
    control.cache.set("p", snapshot(port, "web", &[upstream.address]));
}
