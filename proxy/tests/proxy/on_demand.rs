//! Listeners that are asked for when their address is first called.

use std::net::SocketAddr;

use serde_json::json;
use weft_xds::{
    any::{pack, unpack},
    pb::{
        envoy::config::{
            cluster::v3::Cluster,
            core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
            listener::v3::Listener,
        },
        google::protobuf::{Any, BoolValue},
    },
    server::Snapshot,
};

use crate::support::{
    Proxy, Upstream,
    control::{Control, any, eventually, free_port, listener, named, snapshot},
    raw, statuses,
};

/// The listener of everything that a workload calls; the clients of these tests say in PROXY's words where to.
fn capture(port: u16, settings: serde_json::Value) -> Any {
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "passthrough", "cluster": "passthrough",
    });
    any(
        "envoy.config.listener.v3.Listener",
        json!({
            "name": "outbound",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "use_original_dst": true,
            "metadata": {"filter_metadata": {"weft.dev": {"on_demand_listeners": settings}}},
            // In this order: where the kernel tracks connections, it knows the destination of each.
            "listener_filters": [
                {"name": "original", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}},
                {"name": "proxy", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}},
            ],
            "filter_chains": [{"filters": [{"name": "tcp", "typed_config": proxy}]}],
        }),
    )
}

fn passthrough(upstream: SocketAddr) -> Any {
    let address =
        json!({"socket_address": {"address": upstream.ip().to_string(), "port_value": upstream.port()}});
    any(
        "envoy.config.cluster.v3.Cluster",
        json!({"name": "passthrough", "type": "STATIC", "load_assignment": {"cluster_name": "passthrough",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}}),
    )
}

/// A service at `10.0.0.1:80`, and a thousand others that nobody calls.
fn services(upstream: SocketAddr) -> Snapshot {
    let mut services = snapshot(80, "service", &[upstream]);
    let mut listener: Listener = unpack(&listener("10.0.0.1:80", 80, "service")).expect("a listener");
    listener.bind_to_port = Some(BoolValue { value: false });
    let at = |address: &str| {
        let socket = SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(80)),
            ..SocketAddress::default()
        };
        let address = Address { address: Some(address::Address::SocketAddress(socket)) };
        pack(&Listener { address: Some(address), ..listener.clone() })
    };
    services.listeners = named("10.0.0.1:80", at("10.0.0.1"));
    let cluster: Cluster = unpack(&services.clusters["c"]).expect("a cluster");
    for other in 0..1000 {
        let address = format!("10.1.{}.{}", other / 250, other % 250);
        services.listeners.insert(format!("{address}:80"), at(&address));
        let name = format!("other-{other}");
        services.clusters.insert(name.clone(), pack(&Cluster { name, ..cluster.clone() }));
    }
    services
}

async fn call(port: u16, destination: &str) -> String {
    let request = format!(
        "PROXY TCP4 192.0.2.9 {destination} 7 80\r\nGET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n"
    );
    raw(([127, 0, 0, 1], port).into(), &request).await
}

/// How many listeners the proxy has, and how often its configuration names a cluster that nobody called.
async fn known(proxy: &Proxy) -> (usize, usize) {
    let dump = proxy.admin("GET", "/config_dump").await;
    (
        dump.matches("\"ActiveListener").count().max(dump.matches("\"active_state\"").count()),
        dump.matches("other-").count(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_asked_for_when_it_is_first_called_and_dropped_when_idle() {
    let control = Control::start().await;
    let service = Upstream::echo().await;
    let elsewhere = Upstream::canned("HTTP/1.1 299 Elsewhere\r\ncontent-length: 0\r\n\r\n").await;
    let port = free_port();
    let own = Snapshot {
        listeners: named("outbound", capture(port, json!({"hold_seconds": 60, "idle_seconds": 1}))),
        clusters: named("passthrough", passthrough(elsewhere.address)),
        ..Snapshot::default()
    };
    control.give_on_request(&own, &services(service.address));
    let proxy = Proxy::start(&control.bootstrap()).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    assert_eq!(known(&proxy).await, (1, 0), "nothing but its own");

    assert_eq!(statuses(&call(port, "10.0.0.1").await), ["200"], "held until its service was known");
    assert_eq!(known(&proxy).await, (2, 0), "the one that was called and no other");
    assert_eq!(statuses(&call(port, "10.0.0.1").await), ["200"]);
    assert_eq!(statuses(&call(port, "10.0.0.9").await), ["299"], "what is no service goes on as it is");

    eventually("what is idle is dropped", async || known(&proxy).await == (1, 0)).await;
    assert_eq!(statuses(&call(port, "10.0.0.1").await), ["200"], "and asked for again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_called_is_kept_over_a_restart_of_control_and_changes_reach_it() {
    let control = Control::start().await;
    let (first, second) = (Upstream::echo().await, Upstream::echo().await);
    let elsewhere = Upstream::canned("HTTP/1.1 299 Elsewhere\r\ncontent-length: 0\r\n\r\n").await;
    let port = free_port();
    let own = Snapshot {
        listeners: named("outbound", capture(port, json!({}))),
        clusters: named("passthrough", passthrough(elsewhere.address)),
        ..Snapshot::default()
    };
    control.give_on_request(&own, &services(first.address));
    let proxy = Proxy::start(&control.bootstrap()).await;
    eventually("ready", async || proxy.admin("GET", "/ready").await == "LIVE\n").await;
    assert_eq!(statuses(&call(port, "10.0.0.1").await), ["200"]);

    // An endpoint moves.
    control.give_on_request(&own, &services(second.address));
    eventually("the new endpoint", async || {
        call(port, "10.0.0.1").await;
        second.connections() > 0
    })
    .await;

    // Control goes and comes back: the service is still asked for.
    let address = control.address;
    drop(control);
    assert_eq!(statuses(&call(port, "10.0.0.1").await), ["200"]);
    let control = Control::start_at(address).await;
    control.give_on_request(&own, &services(first.address));
    let before = first.connections();
    eventually("the endpoint of the new control", async || {
        call(port, "10.0.0.1").await;
        first.connections() > before
    })
    .await;
    assert_eq!(known(&proxy).await, (2, 0));
}
