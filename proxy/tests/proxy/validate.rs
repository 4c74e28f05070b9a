//! Configurations that cannot be used are refused with the path of the field.

use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::bootstrap;

fn refusal(yaml: &str) -> String {
    match parse_bootstrap(yaml, Format::Yaml) {
        Err(error) => error.to_string(),
        Ok(bootstrap) => validate(bootstrap).expect_err(yaml).to_string(),
    }
}

#[test]
fn the_examples_are_valid() {
    for name in ["edge", "tcp", "ads"] {
        let path = format!("{}/examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("the example is there");
        validate(parse_bootstrap(&text, Format::Auto).expect("parses")).expect(name);
    }
}

#[test]
fn the_field_that_is_wrong_is_named() {
    let filter = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    let valid = bootstrap(&[([127, 0, 0, 1], 1).into()], "", "", "");
    for (yaml, path) in [
        (
            valid.replace(filter, "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"),
            format!("{manager}.http_filters[0].typed_config"),
        ),
        (
            valid.replace(
                "cluster: up\n",
                "cluster: up\n                            hedge_policy: { initial_requests: 2 }\n",
            ),
            format!("{manager}.route_config.virtual_hosts[0].routes[0].route.hedge_policy.initial_requests: is not supported"),
        ),
        (
            valid.replace(
                "cluster: up\n",
                "cluster: up\n                            hedge_policy: { additional_request_chance: { numerator: 1 } }\n",
            ),
            format!("{manager}.route_config.virtual_hosts[0].routes[0].route.hedge_policy.additional_request_chance: is not supported"),
        ),
        (
            valid.replace(
                "cluster: up\n",
                "cluster: up\n                            hash_policy: [{ terminal: true }]\n",
            ),
            format!("{manager}.route_config.virtual_hosts[0].routes[0].route.hash_policy"),
        ),
        (valid.replace("cluster: up\n", "cluster: gone\n"), "static_resources.clusters".to_owned()),
        (
            valid.replace("      connect_timeout: 1s", "      lb_policy: LOAD_BALANCING_POLICY_CONFIG"),
            "static_resources.clusters[0].load_balancing_policy".to_owned(),
        ),
        (
            valid.replace("      connect_timeout: 1s", "      connect_timeout: -1s"),
            "static_resources.clusters[0].connect_timeout".to_owned(),
        ),
        (valid.replace("      connect_timeout: 1s", "      conect_timeout: 1s"), "conect_timeout".to_owned()),
        (
            valid.replace("address: 127.0.0.1, port_value: 0", "address: localhost, port_value: 0"),
            "static_resources.listeners[0].address.socket_address.address".to_owned(),
        ),
        (bootstrap(&[], "drain_timeout: 5s", "", ""), format!("{manager}.drain_timeout")),
        (
            bootstrap(&[], "", "retry_policy: { retry_on: sometimes }", ""),
            format!("{manager}.route_config.virtual_hosts[0].routes[0].route.retry_policy.retry_on"),
        ),
        (
            bootstrap(&[], "", "", "outlier_detection: { enforcing_success_rate: 101 }"),
            "static_resources.clusters[0].outlier_detection.enforcing_success_rate".to_owned(),
        ),
        (
            valid.replace(
                "domains: [\"*\"]\n",
                "domains: [\"*\"]\n                      request_body_buffer_limit: 1024\n",
            ),
            format!("{manager}.route_config.virtual_hosts[0].request_body_buffer_limit"),
        ),
        (
            valid.replace("prefix: /", "safe_regex: { regex: '(' }"),
            format!("{manager}.route_config.virtual_hosts[0].routes[0].match.safe_regex.regex"),
        ),
        (
            valid.replace("domains: [\"*\"]", "domains: [\"*\", \"*\"]"),
            format!("{manager}.route_config.virtual_hosts"),
        ),
    ] {
        let refusal = refusal(&yaml);
        assert!(refusal.contains(&path), "{path} is not in {refusal:?}");
    }
}
