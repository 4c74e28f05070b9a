//! One bad route among a thousand.
//!
//! What is refused is a whole resource, as in Envoy: a table with a route less would send that route's requests somewhere
//! else, to the next that matches. So the table stays as it was, with all of its routes; the refusal names the route; and
//! everything else that came with it is in force, also in a response of the state of the world.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::{Value, json};
use weft_xds::{ResourceType, server::Snapshot};

use crate::support::{
    Proxy,
    control::{Control, any, eventually, free_port},
    raw, statuses,
};

const ROUTES: usize = 1_000;
const BAD: usize = 637;

/// Two listeners with a route table each: `many` with a thousand routes that all answer `many_status`, and `other`.
fn snapshot(ports: [u16; 2], many_status: u16, other_status: u16, bad: Option<usize>) -> Snapshot {
    let many = (0..ROUTES).map(|number| {
        let matches = match bad {
            Some(bad) if bad == number => json!({"safe_regex": {"regex": "/(unclosed"}}),
            _ => json!({"path": format!("/{number}")}),
        };
        json!({"match": matches, "direct_response": {"status": many_status}})
    });
    let other = json!({"match": {"prefix": "/"}, "direct_response": {"status": other_status}});
    let table = |name: &str, routes: Vec<Value>| {
        let host = json!({"name": "all", "domains": ["*"], "routes": routes});
        let table = json!({"name": name, "virtual_hosts": [host]});
        (name.to_owned(), any("envoy.config.route.v3.RouteConfiguration", table))
    };
    let listener = |name: &str, port: u16| {
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "rds": {"config_source": {"ads": {}}, "route_config_name": name},
            "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        });
        let listener = json!({
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
        });
        (name.to_owned(), any("envoy.config.listener.v3.Listener", listener))
    };
    Snapshot {
        listeners: BTreeMap::from([listener("many", ports[0]), listener("other", ports[1])]),
        routes: BTreeMap::from([table("many", many.collect()), table("other", vec![other])]),
        ..Snapshot::default()
    }
}

/// The statuses of one request for each of the thousand paths.
async fn ask_all(port: u16) -> Vec<u16> {
    let last = ROUTES - 1;
    let requests: String = (0..ROUTES)
        .map(|number| {
            let close = if number == last { "Connection: close\r\n" } else { "" };
            format!("GET /{number} HTTP/1.1\r\nHost: w\r\n{close}\r\n")
        })
        .collect();
    let answers = raw(SocketAddr::from(([127, 0, 0, 1], port)), &requests).await;
    statuses(&answers).into_iter().map(|status| status.parse().expect("a status")).collect()
}

async fn ask_one(port: u16) -> Option<u16> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    tokio::net::TcpStream::connect(address).await.ok()?;
    let answer = raw(address, "GET /1 HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    statuses(&answer).first()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_route_of_a_thousand_is_refused_by_its_path_and_everything_else_is_in_force() {
    for api in ["DELTA_GRPC", "GRPC"] {
        let control = Control::start().await;
        let ports = [free_port(), free_port()];
        control.cache.set("p", snapshot(ports, 201, 201, None));
        let proxy = Proxy::start(&control.bootstrap_by(api)).await;
        eventually("both listeners serve", async || {
            ask_one(ports[0]).await == Some(201) && ask_one(ports[1]).await == Some(201)
        })
        .await;

        control.cache.set("p", snapshot(ports, 202, 202, Some(BAD)));
        eventually("the other table is in force", async || ask_one(ports[1]).await == Some(202)).await;
        let refusal = async || {
            let status = control.cache.status("p").expect("known");
            status.types.get(&ResourceType::RouteConfiguration).and_then(|status| status.last_nack.clone())
        };
        eventually("a refusal", async || refusal().await.is_some()).await;
        let nack = refusal().await.expect("it was there");
        let path = format!("virtual_hosts[0].routes[{BAD}].match.safe_regex.regex");
        assert!(nack.message.contains("many") && nack.message.contains(&path), "{api}: {}", nack.message);
        assert!(!nack.message.contains("other"), "{api}: {}", nack.message);
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_route_configs").await;
        assert!(dump.contains(&path), "{api}: whoever looks at the proxy sees it too: {dump:.2000}");
        assert_eq!(ask_all(ports[0]).await, vec![201; ROUTES], "{api}: the table is as it was, all of it");

        // What is refused holds nothing up.
        control.cache.set("p", snapshot(ports, 203, 203, None));
        eventually("the next version is in force", async || {
            ask_one(ports[0]).await == Some(203) && ask_one(ports[1]).await == Some(203)
        })
        .await;
        assert_eq!(ask_all(ports[0]).await, vec![203; ROUTES], "{api}");
        eventually("no refusal is left", async || refusal().await.is_none()).await;
    }
}
