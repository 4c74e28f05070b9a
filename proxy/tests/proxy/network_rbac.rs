//! The network filter `rbac`: who may connect.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{Proxy, Upstream, bootstrap, raw, statuses};

/// The filter as a line of flow YAML.
fn rbac(fields: &str) -> String {
    format!(
        "            - {{ name: r, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC, stat_prefix: door, {fields} }} }}\n"
    )
}

fn policy(action: &str, permission: &str, principal: &str) -> String {
    format!(
        "{{ action: {action}, policies: {{ p: {{ permissions: [{{ {permission} }}], principals: [{{ {principal} }}] }} }} }}"
    )
}

/// A TCP proxy behind the filter.
fn tcp(up: &Upstream, filter: &str) -> String {
    format!(
        r#"static_resources:
  listeners:
    - name: tcp
      address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
      listener_filters: [{{ name: t, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }} }}]
      listener_filters_timeout: 0.2s
      continue_on_listener_filters_timeout: true
      filter_chains:
        - filters:
{filter}            - {{ name: t, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: up }} }}
  clusters:
    - name: up
      load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}
"#,
        up.address.port()
    )
}

#[tokio::test]
async fn connections_are_let_in_by_address_port_and_server_name_and_what_shadow_rules_would_do_is_counted() {
    let echo = Upstream::scripted(|mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let (near, far) =
        ("{ address_prefix: 127.0.0.0, prefix_len: 8 }", "{ address_prefix: 10.0.0.0, prefix_len: 8 }");
    for (rules, is_let_in) in [
        (policy("ALLOW", "any: true", &format!("source_ip: {near}")), true),
        (policy("ALLOW", "any: true", &format!("direct_remote_ip: {far}")), false),
        (policy("ALLOW", "any: true", &format!("remote_ip: {near}")), true),
        (policy("DENY", "destination_ip: { address_prefix: 127.0.0.1, prefix_len: 32 }", "any: true"), false),
        (policy("DENY", "destination_port: 1", "any: true"), true),
        (policy("ALLOW", "requested_server_name: { exact: a.test }", "any: true"), false),
        (policy("ALLOW", "not_rule: { requested_server_name: { exact: a.test } }", "any: true"), true),
        (policy("ALLOW", "any: true", "authenticated: {}"), false),
        (policy("LOG", "any: true", "authenticated: {}"), true),
    ] {
        let shadow = policy("ALLOW", "any: true", &format!("source_ip: {far}"));
        let filter = rbac(&format!("rules: {rules}, shadow_rules: {shadow}"));
        let proxy = Proxy::start(&tcp(&echo, &filter)).await;
        let mut stream = TcpStream::connect(proxy.at("tcp")).await.expect("connects");
        let _ = stream.write_all(b"hello").await;
        let mut answer = [0; 5];
        let heard = stream.read_exact(&mut answer).await.is_ok();
        assert_eq!(heard, is_let_in, "{rules}");
        let counted = if is_let_in { "envoy_rbac_allowed" } else { "envoy_rbac_denied" };
        assert_eq!(proxy.metric(counted).await, 1.0, "{rules}");
        assert_eq!(proxy.metric("envoy_rbac_shadow_denied").await, 1.0);
    }
}

#[tokio::test]
async fn rules_for_connections_stand_before_http_too_and_speak_of_no_requests() {
    let up = Upstream::echo().await;
    let with = |rules: &str| {
        let plain = bootstrap(&[up.address], "", "", "");
        plain.replacen("            - name: hcm\n", &format!("{}            - name: hcm\n", rbac(rules)), 1)
    };
    let far = "any: true";
    for (action, expected) in [("ALLOW", &["200"][..]), ("DENY", &[])] {
        let proxy = Proxy::start(&with(&format!("rules: {}", policy(action, far, "any: true")))).await;
        let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(statuses(&String::from_utf8_lossy(&answer)), expected);
    }
    let header = policy("ALLOW", "header: { name: x-a, present_match: true }", "any: true");
    let bootstrap = parse_bootstrap(&with(&format!("rules: {header}")), Format::Yaml).expect("a bootstrap");
    let error = validate(bootstrap).expect_err("a header of a connection");
    assert!(error.to_string().contains("filters[0].typed_config.rules: headers and paths"), "{error}");
}

#[tokio::test]
async fn http_rules_tell_who_is_connected_from_whom_a_proxy_before_us_names() {
    let up = Upstream::echo().await;
    let rbac = |principal: &str| {
        let rules = policy("ALLOW", "any: true", principal);
        format!(
            "{{ name: r, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {rules} }} }}"
        )
    };
    let (near, far) =
        ("{ address_prefix: 127.0.0.0, prefix_len: 8 }", "{ address_prefix: 203.0.113.7, prefix_len: 32 }");
    for (principal, without, with) in [
        (format!("remote_ip: {far}"), "403", "200"),
        (format!("remote_ip: {near}"), "200", "403"),
        (format!("direct_remote_ip: {near}"), "200", "200"),
        (format!("source_ip: {near}"), "200", "200"),
    ] {
        let to_up = "{ match: { prefix: / }, route: { cluster: up } }";
        let proxy = Proxy::start(&crate::filters::filtered(up.address, &[&rbac(&principal)], &[to_up])).await;
        for (field, expected) in [("", without), ("x-forwarded-for: 127.0.0.9, 203.0.113.7\r\n", with)] {
            let request = format!("GET / HTTP/1.1\r\nhost: w\r\n{field}connection: close\r\n\r\n");
            assert_eq!(statuses(&raw(proxy.at("http"), &request).await), [expected], "{principal} {field}");
        }
    }
}
