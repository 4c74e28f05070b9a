//! What does not come in time is done without.

use serde_json::json;

use crate::support::{
    Proxy, Upstream,
    control::{Control, any, eventually, free_port, listener, named, snapshot},
    raw, statuses,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_starts_without_its_routes_when_they_do_not_come_in_time() {
    let control = Control::start().await;
    let upstream = Upstream::echo().await;
    let (port, patient) = (free_port(), free_port());
    let mut given = snapshot(port, "one", &[upstream.address]);
    let manager = |timeout: &str| {
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "x",
            "rds": {"config_source": {"ads": {}, "initial_fetch_timeout": timeout}, "route_config_name": "late"},
            "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        })
    };
    let waiting = |name: &str, port: u16, timeout: &str| {
        any(
            "envoy.config.listener.v3.Listener",
            json!({
                "name": name,
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager(timeout)}]}],
            }),
        )
    };
    given.listeners.insert("short".into(), waiting("short", port, "0.1s"));
    given.listeners.insert("ever".into(), waiting("ever", patient, "0s"));
    given.listeners.insert("web".into(), listener("web", free_port(), "web"));
    control.cache.set("p", given.clone());
    let proxy = Proxy::start(&control.bootstrap()).await;
    let address = ([127, 0, 0, 1], port).into();
    eventually("the listener starts", async || proxy.metric("envoy_xds_init_fetch_timeout").await == 1.0)
        .await;
    assert_eq!(statuses(&raw(address, GET).await), ["404"]);
    assert_eq!(proxy.admin("GET", "/ready").await, "INITIALIZING\n", "the other one waits for ever");
    // They come after all, and both serve.
    let mut late = given.routes["r"].clone();
    let mut table: weft_xds::pb::envoy::config::route::v3::RouteConfiguration =
        weft_xds::any::unpack(&late).expect("routes");
    "late".clone_into(&mut table.name);
    late = weft_xds::any::pack(&table);
    given.routes.extend(named("late", late));
    control.cache.set("p", given);
    eventually("routes", async || statuses(&raw(address, GET).await) == ["200"]).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    assert_eq!(statuses(&raw(([127, 0, 0, 1], patient).into(), GET).await), ["200"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_is_ready_without_its_control_plane_when_that_does_not_come_in_time() {
    let control = Control::start().await;
    let bootstrap = control.bootstrap();
    drop(control);
    let with = |timeout: &str| {
        let source = format!("{{ ads: {{}}, initial_fetch_timeout: {timeout} }}");
        bootstrap.replace("config: { ads: {} }", &format!("config: {source}"))
    };
    let impatient = Proxy::start(&with("0.1s")).await;
    let patient = Proxy::start(&with("0s")).await;
    eventually("ready", async || impatient.admin("GET", "/ready").await == "LIVE\n").await;
    assert_eq!(patient.admin("GET", "/ready").await, "INITIALIZING\n");
}
