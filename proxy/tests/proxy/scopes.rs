//! Route tables by scope (SRDS).

use serde_json::{Value, json};
use weft_xds::{ResourceType, pb::google::protobuf::Any, server::Snapshot};

use crate::support::{
    Proxy,
    control::{Control, any, eventually, free_port, named},
    raw, statuses,
};

fn scope(name: &str, key: &str, routes: &str) -> (String, Any) {
    let scope = json!({"name": name, "route_configuration_name": routes, "key": {"fragments": [{"string_key": key}]}});
    (name.to_owned(), any("envoy.config.route.v3.ScopedRouteConfiguration", scope))
}

fn routes(name: &str, status: u16) -> (String, Any) {
    let host = json!({"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": status}}]});
    (
        name.to_owned(),
        any("envoy.config.route.v3.RouteConfiguration", json!({"name": name, "virtual_hosts": [host]})),
    )
}

fn listener(port: u16, specifier: &str, scopes: Value) -> Any {
    let element = json!({"key": "k", "separator": "="});
    let extractor = json!({"name": "X-Scope", "element_separator": ";", "element": element});
    let mut scoped = json!({
        "name": "s",
        "scope_key_builder": {"fragments": [{"header_value_extractor": extractor}]},
        "rds_config_source": {"ads": {}},
    });
    scoped[specifier] = scopes;
    any(
        "envoy.config.listener.v3.Listener",
        json!({
            "name": "web",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "web",
                "scoped_routes": scoped,
                "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            }}]}],
        }),
    )
}

async fn status(port: u16, scope: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: w\r\nx-scope: {scope}\r\nConnection: close\r\n\r\n");
    statuses(&raw(([127, 0, 0, 1], port).into(), &request).await).concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_gets_the_routes_of_its_scope_and_scopes_come_change_and_go() {
    for api in ["DELTA_GRPC", "GRPC"] {
        let control = Control::start().await;
        let port = free_port();
        let listener = listener(port, "scoped_rds", json!({"scoped_rds_config_source": {"ads": {}}}));
        let set = |scopes: &[(String, Any)]| {
            let given = Snapshot {
                listeners: named("web", listener.clone()),
                scopes: scopes.iter().cloned().collect(),
                routes: [routes("one", 201), routes("two", 202), routes("three", 203)].into(),
                ..Snapshot::default()
            };
            control.cache.set("p", given);
        };
        set(&[scope("a", "a", "one"), scope("b", "b", "two")]);
        let proxy = Proxy::start(&control.bootstrap_by(api)).await;
        eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
        // It did not start before every scope had its routes.
        assert_eq!(status(port, "x=1;k=a").await, "201", "{api}");
        assert_eq!(status(port, "k=b").await, "202", "{api}");
        assert_eq!(status(port, "k=c").await, "404", "{api}: as Envoy, no scope is no route");
        assert_eq!(status(port, "a").await, "404", "{api}");
        let dump = proxy.admin("GET", "/config_dump").await;
        assert!(
            dump.contains("ScopedRoutesConfigDump") && !dump.contains("\"three\""),
            "only routes in use: {dump}"
        );

        // Two scopes change keys with each other and a third comes.
        set(&[scope("a", "b", "one"), scope("b", "a", "two"), scope("c", "c", "three")]);
        eventually("the third scope", async || status(port, "k=c").await == "203").await;
        assert_eq!((status(port, "k=a").await.as_str(), status(port, "k=b").await.as_str()), ("202", "201"));

        set(&[scope("a", "b", "one"), scope("b", "a", "two"), scope("d", "a", "three")]);
        eventually("a refusal", async || {
            let status = control.cache.status("p").expect("known");
            let nack = status
                .types
                .get(&ResourceType::ScopedRouteConfiguration)
                .and_then(|status| status.last_nack.clone());
            nack.is_some_and(|nack| nack.message.contains("scope.d.key: is the same as that of \"b\""))
        })
        .await;
        assert_eq!(status(port, "k=a").await, "202", "{api}");
        eventually("what is gone is gone", async || status(port, "k=c").await == "404").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_are_listed_in_the_listener_as_well() {
    let control = Control::start().await;
    let port = free_port();
    let inline = json!({"virtual_hosts": [{"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 204}}]}]});
    let scopes = json!({"scoped_route_configurations": [
        {"name": "a", "route_configuration_name": "one", "key": {"fragments": [{"string_key": "a"}]}},
        {"name": "b", "route_configuration": inline, "key": {"fragments": [{"string_key": "b"}]}},
    ]});
    let given = Snapshot {
        listeners: named("web", listener(port, "scoped_route_configurations_list", scopes)),
        routes: [routes("one", 201)].into(),
        ..Snapshot::default()
    };
    control.cache.set("p", given);
    let proxy = Proxy::start(&control.bootstrap()).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    assert_eq!((status(port, "k=a").await.as_str(), status(port, "k=b").await.as_str()), ("201", "204"));
    assert_eq!(status(port, "k=c").await, "404");
}
