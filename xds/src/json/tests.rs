use serde_json::json;

use super::*;
use crate::{
    any,
    pb::envoy::{
        config::cluster::v3::{Cluster, cluster::ClusterDiscoveryType},
        extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
    },
};

const BOOTSTRAP: &str = r#"
node: { id: one, cluster: demo, metadata: { weft.traffic: redirect, numbers: [1, 2.5, true, null] } }
admin:
  address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }
static_resources:
  listeners:
  - name: web
    address: { socket_address: { address: 0.0.0.0, port_value: 8080 } }
    listener_filters:
    - name: envoy.filters.listener.http_inspector
      typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          codec_type: AUTO
          access_log:
          - name: envoy.access_loggers.stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: { json_format: { status: "%RESPONSE_CODE%" } }
          route_config:
            name: local
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: / }
                route: { cluster: backend, timeout: 15s }
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: backend
    type: STATIC
    connect_timeout: 0.25s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: backend
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 80 } } }
"#;

fn broken(from: &str, to: &str) -> ConfigError {
    assert!(BOOTSTRAP.contains(from));
    parse_bootstrap(&BOOTSTRAP.replace(from, to), Format::Auto).expect_err("it is broken")
}

#[test]
fn reads_a_bootstrap_with_its_wrapped_messages() {
    let bootstrap = parse_bootstrap(BOOTSTRAP, Format::Auto).expect("valid");
    assert_eq!(bootstrap.node.as_ref().expect("given").id, "one");
    let resources = bootstrap.static_resources.expect("given");
    let cluster = &resources.clusters[0];
    assert_eq!(cluster.connect_timeout.expect("given").nanos, 250_000_000);
    assert!(matches!(cluster.cluster_discovery_type, Some(ClusterDiscoveryType::Type(0))));
    let filter = &resources.listeners[0].filter_chains[0].filters[0];
    let config = filter.config_type.as_ref().expect("given");
    let crate::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(config) = config else {
        panic!("{config:?} is not a typed config")
    };
    let manager: HttpConnectionManager = any::unpack(config).expect("it is one");
    assert_eq!(manager.stat_prefix, "web");
}

#[test]
fn what_was_written_reads_back_the_same() {
    let bootstrap = parse_bootstrap(BOOTSTRAP, Format::Yaml).expect("valid");
    let json = to_json(&bootstrap).expect("every type in it is known");
    assert_eq!(json["static_resources"]["clusters"][0]["connect_timeout"], "0.250s");
    assert_eq!(
        json["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"],
        "web"
    );
    let again = parse_bootstrap(&json.to_string(), Format::Json).expect("we wrote it");
    assert_eq!(again.node, bootstrap.node);
    assert_eq!(to_json(&again).expect("known"), json);
}

#[test]
fn both_spellings_of_field_names_are_read() {
    let cluster: Cluster = from_json(&json!({ "name": "a", "connectTimeout": "5s" })).expect("valid");
    assert_eq!(cluster.connect_timeout.expect("given").seconds, 5);
}

#[test]
fn an_unknown_field_is_named_with_its_path() {
    assert_eq!(
        broken("stat_prefix: web", "stat_prefx: web").to_string(),
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config: unknown field \"stat_prefx\""
    );
    assert_eq!(
        broken("timeout: 15s", "tmeout: 15s").to_string(),
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]\
         .routes[0].route: unknown field \"tmeout\""
    );
    assert_eq!(
        broken("admin:", "admn:").to_string(),
        "envoy.config.bootstrap.v3.Bootstrap: unknown field \"admn\""
    );
}

#[test]
fn an_unknown_filter_is_named_with_its_path() {
    assert_eq!(
        broken("envoy.extensions.filters.http.router.v3.Router", "envoy.extensions.filters.http.lua.v3.Lua")
            .to_string(),
        "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: \
         unknown type \"envoy.extensions.filters.http.lua.v3.Lua\""
    );
}

#[test]
fn a_wrong_value_is_named_with_its_path() {
    let error = broken("port_value: 8080", "port_value: many");
    assert_eq!(error.path, "static_resources.listeners[0].address.socket_address.port_value");
    let error = broken("type: STATIC", "type: STATC");
    assert_eq!(error.to_string(), "static_resources.clusters[0].type: unknown value \"STATC\"");
    let error = broken("0.25s", "soon");
    assert_eq!(error.path, "static_resources.clusters[0].connect_timeout");
    let error = broken("domains: [\"*\"]", "domains: 7");
    assert!(error.path.ends_with("virtual_hosts[0].domains"), "{error}");
}

#[test]
fn text_that_cannot_be_read_is_named_with_its_line() {
    for (text, format) in [("{\n  \"node\": }", Format::Json), ("node:\n  id: [", Format::Yaml)] {
        let error = parse_value(text, format).expect_err("broken");
        assert!(error.path.starts_with("line "), "{error}");
    }
    assert!(parse_value("{ node: {id: x} }", Format::Auto).is_ok(), "flow style is YAML");
    for (text, format) in [("a: 1\na: 2", Format::Yaml), ("{\"a\":1,\"b\":{\"a\":1,\"a\":1}}", Format::Json)]
    {
        assert!(parse_value(text, format).is_err(), "a key is given twice");
    }
}

#[test]
fn deep_nesting_is_refused() {
    for format in [Format::Json, Format::Yaml] {
        for depth in [200, 1_000_000] {
            assert!(parse_value(&"[".repeat(depth), format).is_err());
            assert!(parse_value(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)), format).is_err());
            assert!(parse_value(&"{\"a\":".repeat(depth), format).is_err());
        }
    }
    let mut text = String::new();
    for depth in 0..300 {
        text.push_str(&format!("{}a:\n", " ".repeat(depth)));
    }
    assert!(parse_value(&text, Format::Yaml).is_err());
}

#[test]
fn the_deepest_documents_that_are_read_can_be_used() {
    let deep = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    for (depth, format) in [(58, Format::Yaml), (58, Format::Json), (110, Format::Json)] {
        let text = format!("{{ \"node\": {{ \"metadata\": {} }} }}", deep(depth));
        // Beyond some depth protobuf's decoders refuse; that is an answer too.
        if let Ok(bootstrap) = parse_bootstrap(&text, format) {
            to_json(&bootstrap).expect("it was read");
        }
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{},", level - 1).repeat(9);
        text.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
    }
    assert!(parse_value(&text, Format::Yaml).is_err());
    assert!(parse_value("a: &a { b: 1 }\nc: *a\n", Format::Yaml).is_ok(), "an honest alias is fine");
}

#[test]
fn wrapped_messages_keep_their_type() {
    let value = json!({ "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "web" });
    let wrapped = any_from_json(&value).expect("valid");
    assert_eq!(any_to_json(&wrapped).expect("known"), value);
    let unknown = Any { type_url: "type.googleapis.com/no.Such".into(), value: vec![] };
    assert!(any_to_json(&unknown).expect_err("unknown").reason.contains("no.Such"));
}
