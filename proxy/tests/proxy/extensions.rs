//! Filters that come by extension discovery (ECDS).

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_xds::{ResourceType, pb::google::protobuf::Any, server::Snapshot};

use crate::support::{
    Proxy, Upstream,
    control::{Control, any, eventually, free_port, named, snapshot},
    raw, statuses,
};

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn buffer(most: u32) -> Value {
    json!({"@type": format!("{HTTP}.buffer.v3.Buffer"), "max_request_bytes": most})
}

fn extension(config: &Value) -> Any {
    any("envoy.config.core.v3.TypedExtensionConfig", json!({"name": "limit", "typed_config": config}))
}

/// A listener with a bucket of `tokens` requests for good, and behind it a filter of which only the name is known.
fn listener(port: u16, discovery: Value, tokens: u32) -> Any {
    let mut discovery = discovery;
    discovery["type_urls"] = json!([format!("{HTTP}.buffer.v3.Buffer")]);
    let all = json!({"default_value": {"numerator": 100}});
    any(
        "envoy.config.listener.v3.Listener",
        json!({
            "name": "web",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "web",
                "rds": {"config_source": {"ads": {}}, "route_config_name": "r"},
                "http_filters": [
                    {"name": "bucket", "typed_config": {"@type": format!("{HTTP}.local_ratelimit.v3.LocalRateLimit"),
                        "stat_prefix": "b", "filter_enabled": all, "filter_enforced": all,
                        "token_bucket": {"max_tokens": tokens, "fill_interval": "3600s"}}},
                    {"name": "limit", "config_discovery": discovery},
                    {"name": "router", "typed_config": {"@type": format!("{HTTP}.router.v3.Router")}},
                ],
            }}]}],
        }),
    )
}

fn with(port: u16, upstream: SocketAddr, discovery: &Value, tokens: u32, config: Option<Value>) -> Snapshot {
    let mut given = snapshot(port, "web", &[upstream]);
    given.listeners = named("web", listener(port, discovery.clone(), tokens));
    given.extensions.extend(config.map(|config| ("limit".to_owned(), extension(&config))));
    given
}

async fn post(port: u16) -> String {
    let request = "POST / HTTP/1.1\r\nHost: w\r\nConnection: close\r\nContent-Length: 6\r\n\r\n123456";
    statuses(&raw(([127, 0, 0, 1], port).into(), request).await).concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_comes_by_name_is_waited_for_and_changes_while_the_others_stay() {
    for api in ["DELTA_GRPC", "GRPC"] {
        let control = Control::start().await;
        let upstream = Upstream::echo().await;
        let port = free_port();
        let source = json!({"config_source": {"ads": {}, "initial_fetch_timeout": "0s"}});
        // The bucket is for four of these requests, and no change of another filter fills it.
        let set = |config| control.cache.set("p", with(port, upstream.address, &source, 4, config));
        set(None);
        let proxy = Proxy::start(&control.bootstrap_by(api)).await;
        eventually("routes", async || {
            proxy.admin("GET", "/config_dump?resource=dynamic_route_configs").await.contains("virtual_hosts")
        })
        .await;
        if api == "GRPC" {
            // What is not there cannot be said in this variant, so it is waited for.
            assert_eq!(proxy.admin("GET", "/ready").await, "INITIALIZING\n");
        }
        set(Some(buffer(100)));
        eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
        eventually("the filter", async || {
            proxy.admin("GET", "/config_dump?resource=ecds_filters").await.contains("100")
        })
        .await;
        assert_eq!(post(port).await, "200", "{api}");
        set(Some(buffer(3)));
        eventually("the change", async || {
            proxy
                .admin("GET", "/config_dump?resource=ecds_filters")
                .await
                .contains("\"max_request_bytes\": 3")
        })
        .await;
        assert_eq!(post(port).await, "413", "{api}");

        for (bad, reason) in [
            (
                json!({"@type": format!("{HTTP}.cors.v3.Cors")}),
                "extension.limit.typed_config.@type: envoy.extensions.filters.http.cors.v3.Cors is not among the type_urls of \"limit\"",
            ),
            (buffer(0), "extension.limit.typed_config.max_request_bytes: must be at least 1"),
        ] {
            set(Some(bad));
            eventually(reason, async || {
                let status = control.cache.status("p").expect("known");
                let nack = status
                    .types
                    .get(&ResourceType::ExtensionConfig)
                    .and_then(|status| status.last_nack.clone());
                nack.is_some_and(|nack| nack.message.contains(reason))
            })
            .await;
        }
        assert_eq!(post(port).await, "413", "{api}: the last good one stays");
        set(Some(buffer(101)));
        eventually("the next good one", async || {
            proxy.admin("GET", "/config_dump?resource=ecds_filters").await.contains("101")
        })
        .await;
        assert_eq!(post(port).await, "200", "{api}");
        assert_eq!(post(port).await, "429", "{api}: the bucket is the one of the beginning");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_filter_a_chain_answers_500_or_uses_the_default() {
    let control = Control::start().await;
    let upstream = Upstream::echo().await;
    let port = free_port();
    let source = json!({"config_source": {"ads": {}}});
    let mut given = with(port, upstream.address, &source, 100, None);
    let (defaulted, at_once) = (free_port(), free_port());
    for (name, port, now) in [("defaulted", defaulted, false), ("now", at_once, true)] {
        let mut source = source.clone();
        source["default_config"] = buffer(5);
        source["apply_default_config_without_warming"] = now.into();
        let mut listener: weft_xds::pb::envoy::config::listener::v3::Listener =
            weft_xds::any::unpack(&listener(port, source, 100)).expect("a listener");
        name.clone_into(&mut listener.name);
        given.listeners.extend(named(name, weft_xds::any::pack(&listener)));
    }
    control.cache.set("p", given.clone());
    let proxy = Proxy::start(&control.bootstrap()).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    assert_eq!(post(port).await, "500", "known not to exist, and as Envoy says it");
    assert_eq!((post(defaulted).await, post(at_once).await), ("413".to_owned(), "413".to_owned()));
    given.extensions = named("limit", extension(&buffer(100)));
    control.cache.set("p", given.clone());
    eventually("the filter is there", async || post(port).await == "200").await;
    assert_eq!((post(defaulted).await, post(at_once).await), ("200".to_owned(), "200".to_owned()));
    given.extensions.clear();
    control.cache.set("p", given);
    eventually("the filter is gone", async || post(port).await == "500").await;
    assert_eq!((post(defaulted).await, post(at_once).await), ("413".to_owned(), "413".to_owned()));
}
