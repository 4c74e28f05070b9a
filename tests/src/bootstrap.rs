//! A bootstrap, put together from the few shapes that tests need.

use std::{fmt, net::SocketAddr};

use serde_json::{Value, json};

/// Listeners and clusters; [`Display`](fmt::Display) gives JSON that weft-proxy and Envoy both read. The admin address is
/// not in it: who starts the proxy adds one.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    dynamic: Value,
}

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

// === impl Bootstrap ===

impl Bootstrap {
    /// An HTTP listener on a port of the kernel's choice that sends everything to `cluster`; `manager` has further fields
    /// of the connection manager, and may replace `route_config`.
    #[must_use]
    pub fn http(self, name: &str, cluster: &str, manager: Value) -> Self {
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}]);
        self.http_routes(name, routes, manager)
    }

    /// The same with routes.
    #[must_use]
    pub fn http_routes(self, name: &str, routes: Value, manager: Value) -> Self {
        let filter = merged(
            json!({
                "@type": type_url(MANAGER),
                "stat_prefix": name,
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
                "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": type_url(ROUTER)}}],
            }),
            manager,
        );
        self.chain(name, json!({"filters": [{"name": "manager", "typed_config": filter}]}))
    }

    /// A listener that relays bytes to `cluster`.
    #[must_use]
    pub fn tcp(self, name: &str, cluster: &str) -> Self {
        let filter = json!({"@type": type_url(TCP_PROXY), "stat_prefix": name, "cluster": cluster});
        self.chain(name, json!({"filters": [{"name": "tcp", "typed_config": filter}]}))
    }

    /// A cluster with a fixed list of endpoints; `fields` has further fields of it.
    #[must_use]
    pub fn cluster(mut self, name: &str, endpoints: &[SocketAddr], fields: Value) -> Self {
        let hosts: Vec<Value> =
            endpoints.iter().map(|at| json!({"endpoint": {"address": socket(*at)}})).collect();
        let cluster = json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]},
        });
        self.clusters.push(merged(cluster, fields));
        self
    }

    /// A cluster whose endpoints speak HTTP/2 without TLS.
    #[must_use]
    pub fn http2_cluster(self, name: &str, endpoints: &[SocketAddr], options: Value) -> Self {
        self.cluster(name, endpoints, json!({"typed_extension_protocol_options": http2_upstream(options)}))
    }

    /// Further fields of the listener `name`, such as `listener_filters`.
    #[must_use]
    pub fn with_listener(mut self, name: &str, fields: Value) -> Self {
        for listener in self.listeners.iter_mut().filter(|listener| listener["name"] == name) {
            *listener = merged(listener.take(), fields.clone());
        }
        self
    }

    /// Further fields of the filter chains of the listener `name`, such as `transport_socket`.
    #[must_use]
    pub fn with_chain(mut self, name: &str, fields: Value) -> Self {
        let named = self.listeners.iter_mut().filter(|listener| listener["name"] == name);
        for chain in named.flat_map(|listener| listener["filter_chains"].as_array_mut()).flatten() {
            *chain = merged(chain.take(), fields.clone());
        }
        self
    }

    /// `dynamic_resources`: where more comes from.
    #[must_use]
    pub fn dynamic(mut self, resources: Value) -> Self {
        self.dynamic = resources;
        self
    }

    fn chain(mut self, name: &str, chain: Value) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        self.listeners.push(json!({"name": name, "address": socket(anywhere), "filter_chains": [chain]}));
        self
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = json!({
            "node": {"id": "test", "cluster": "test"},
            "static_resources": {"listeners": self.listeners, "clusters": self.clusters},
        });
        if !self.dynamic.is_null() {
            all["dynamic_resources"] = self.dynamic.clone();
        }
        write!(f, "{all:#}")
    }
}

/// `typed_extension_protocol_options` of a cluster that speaks HTTP/2, with these HTTP/2 options.
pub fn http2_upstream(options: Value) -> Value {
    json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": type_url(HTTP_OPTIONS),
            "explicit_http_config": {"http2_protocol_options": options},
        }
    })
}

/// An address as Envoy's API has it.
pub fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn type_url(name: &str) -> String {
    format!("type.googleapis.com/{name}")
}

/// `base` with the fields of `over`, which replace those of the same name.
fn merged(mut base: Value, over: Value) -> Value {
    if let (Some(base), Value::Object(over)) = (base.as_object_mut(), over) {
        base.extend(over);
    }
    base
}
