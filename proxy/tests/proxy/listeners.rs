//! What happens to a connection before its filter chain has it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Proxy, Upstream, closes, raw, read_all, statuses, wait_for_metric};

const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const TLS_INSPECTOR: &str = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

fn filter(type_name: &str, settings: &str) -> String {
    format!(
        "        - name: filter\n          typed_config: {{ \"@type\": type.googleapis.com/{type_name}{settings} }}\n"
    )
}

/// A chain that sends everything to a cluster.
fn tcp_chain(matches: &str, cluster: &str) -> String {
    format!(
        r#"        - filter_chain_match: {{ {matches} }}
          filters:
            - name: tcp
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: {cluster}
                cluster: {cluster}
"#
    )
}

/// A chain that answers every request with the client's address and the addressed one.
fn http_chain(matches: &str) -> String {
    format!(
        r#"        - filter_chain_match: {{ {matches} }}
          filters:
            - name: hcm
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: web
                use_remote_address: true
                route_config:
                  virtual_hosts:
                    - {{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: up }} }}] }}
                http_filters:
                  - name: router
                    typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
"#
    )
}

fn bootstrap(settings: &str, filters: &str, chains: &str, clusters: &[(&str, &Upstream)]) -> String {
    let clusters: String = clusters
        .iter()
        .map(|(name, upstream)| {
            format!(
                r#"    - name: {name}
      connect_timeout: 1s
      load_assignment:
        cluster_name: {name}
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }}
"#,
                upstream.address.port()
            )
        })
        .collect();
    let filters =
        if filters.is_empty() { String::new() } else { format!("      listener_filters:\n{filters}") };
    format!(
        r#"static_resources:
  listeners:
    - name: main
      address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
{settings}{filters}      filter_chains:
{chains}  clusters:
{clusters}"#
    )
}

/// Says its name, then sends back what it gets.
async fn named(name: &'static str) -> Upstream {
    Upstream::scripted(move |mut stream, _| async move {
        let _ = stream.write_all(format!("{name}:").as_bytes()).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// A ClientHello as a client would send it.
fn hello(name: &str, protocols: &[&str]) -> Vec<u8> {
    fn long(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes(), content].concat()
    }
    let names = long(&[&[0][..], &long(name.as_bytes())].concat());
    let mut extensions = [&[0, 0][..], &long(&names)].concat();
    if !protocols.is_empty() {
        let list: Vec<u8> =
            protocols.iter().flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
        extensions.extend([&[0, 16][..], &long(&long(&list))].concat());
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(long(&extensions));
    let message = [&[1, 0][..], &long(&body)].concat();
    [&[22, 3, 1][..], &long(&message)].concat()
}

/// Sends this and gives back what came, as bytes.
async fn exchange(proxy: &Proxy, data: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.at("main")).await.expect("connects");
    stream.write_all(data).await.expect("writes");
    stream.shutdown().await.expect("half-closes");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn the_address_in_a_proxy_header_is_the_client() {
    let up = Upstream::echo().await;
    let filters = filter(PROXY_PROTOCOL, "");
    let proxy = Proxy::start(&bootstrap("", &filters, &http_chain(""), &[("up", &up)])).await;
    let request = "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";
    let answer =
        raw(proxy.at("main"), &format!("PROXY TCP4 192.0.2.9 198.51.100.7 7 443\r\n{request}")).await;
    assert!(answer.contains("x-forwarded-for: 192.0.2.9\r\n"), "{answer}");
    // Of the second version, in pieces, with tags after the addresses that fill more than one read.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend(20_012u16.to_be_bytes());
    header.extend([192, 0, 2, 77, 198, 51, 100, 7, 0, 7, 1, 187]);
    header.extend([0; 20_000]);
    header.extend(request.as_bytes());
    let mut stream = TcpStream::connect(proxy.at("main")).await.expect("connects");
    stream.set_nodelay(true).expect("an option");
    for piece in [&header[..1], &header[1..13], &header[13..30], &header[30..15_000], &header[15_000..]] {
        stream.write_all(piece).await.expect("writes");
        tokio::task::yield_now().await;
    }
    let answer = read_all(&mut stream).await;
    assert!(answer.contains("x-forwarded-for: 192.0.2.77\r\n"), "{answer}");
    // Who speaks for itself is itself.
    let mut local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec();
    local.extend(request.as_bytes());
    let answer = String::from_utf8(exchange(&proxy, &local).await).expect("text");
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\r\n"), "{answer}");
    assert_eq!(proxy.metric("envoy_proxy_proto_versions_found").await, 3.0);
}

#[tokio::test]
async fn a_connection_without_a_good_proxy_header_is_closed_and_counted() {
    let up = named("up").await;
    let filters = filter(PROXY_PROTOCOL, "");
    let proxy = Proxy::start(&bootstrap("", &filters, &tcp_chain("", "up"), &[("up", &up)])).await;
    assert_eq!(exchange(&proxy, b"GET / HTTP/1.1\r\n\r\n").await, b"");
    assert_eq!(exchange(&proxy, b"PROXY TCP4 1.2.3.4\r\n").await, b"");
    assert_eq!(exchange(&proxy, b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0").await, b"");
    assert_eq!(up.connections(), 0);
    assert_eq!(proxy.metric("envoy_proxy_proto_not_found_disallowed").await, 1.0);
    assert_eq!(proxy.metric("envoy_proxy_proto_versions_error").await, 2.0);
    assert_eq!(proxy.metric("envoy_listener_downstream_listener_filter_error").await, 3.0);
    assert_eq!(proxy.metric("envoy_listener_downstream_cx_active").await, 0.0);
}

#[tokio::test]
async fn a_proxy_header_may_be_optional_and_a_version_may_be_refused() {
    let up = named("up").await;
    let filters = filter(
        PROXY_PROTOCOL,
        ", allow_requests_without_proxy_protocol: true, disallowed_versions: [V2], stat_prefix: edge",
    );
    let proxy = Proxy::start(&bootstrap("", &filters, &tcp_chain("", "up"), &[("up", &up)])).await;
    assert_eq!(exchange(&proxy, b"hello").await, b"up:hello");
    assert_eq!(exchange(&proxy, b"PROXY UNKNOWN\r\nhello").await, b"up:hello");
    assert_eq!(exchange(&proxy, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00hello").await, b"");
    assert_eq!(proxy.metric("envoy_proxy_proto_not_found_allowed").await, 1.0);
    assert_eq!(proxy.metric("envoy_proxy_proto_versions_disallowed").await, 1.0);
}

#[tokio::test]
async fn tls_passes_through_by_its_server_name_and_protocols() {
    let (one, two, rest) = (named("one").await, named("two").await, named("rest").await);
    let chains = [
        tcp_chain("server_names: [one.example.com], transport_protocol: tls", "one"),
        tcp_chain("server_names: ['*.example.com'], application_protocols: [h2]", "two"),
        tcp_chain("transport_protocol: raw_buffer", "rest"),
    ]
    .concat();
    let clusters = [("one", &one), ("two", &two), ("rest", &rest)];
    // The inspector is there without being asked for, as in Envoy, since the chains need it.
    let proxy = Proxy::start(&bootstrap("", "", &chains, &clusters)).await;
    let greeting = hello("One.Example.com", &[]);
    assert_eq!(exchange(&proxy, &greeting).await, [b"one:", &greeting[..]].concat());
    let greeting = hello("x.example.com", &["h2", "http/1.1"]);
    assert_eq!(exchange(&proxy, &greeting).await, [b"two:", &greeting[..]].concat());
    assert_eq!(exchange(&proxy, &hello("x.example.com", &["http/1.1"])).await, b"");
    assert_eq!(exchange(&proxy, &hello("example.org", &[])).await, b"");
    assert_eq!(exchange(&proxy, b"plain").await, b"rest:plain");
    // One byte at a time.
    let greeting = hello("one.example.com", &["h2"]);
    let mut stream = TcpStream::connect(proxy.at("main")).await.expect("connects");
    stream.set_nodelay(true).expect("an option");
    for byte in &greeting {
        stream.write_all(&[*byte]).await.expect("writes");
        tokio::task::yield_now().await;
    }
    stream.shutdown().await.expect("half-closes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    assert_eq!(answer, [b"one:", &greeting[..]].concat());
    assert_eq!(proxy.metric("envoy_tls_inspector_tls_found").await, 5.0);
    assert_eq!(proxy.metric("envoy_tls_inspector_tls_not_found").await, 1.0);
    assert_eq!(proxy.metric("envoy_tls_inspector_alpn_found").await, 3.0);
    assert_eq!(proxy.metric("envoy_listener_no_filter_chain_match").await, 2.0);
}

#[tokio::test]
async fn a_client_hello_without_end_is_refused() {
    let up = named("up").await;
    let filters = filter(TLS_INSPECTOR, ", max_client_hello_size: 1024");
    let proxy = Proxy::start(&bootstrap("", &filters, &tcp_chain("", "up"), &[("up", &up)])).await;
    let mut stream = TcpStream::connect(proxy.at("main")).await.expect("connects");
    stream.write_all(b"\x16\x03\x01\x20\x00\x01\x00\x1f\xfc").await.expect("writes");
    assert!(closes(&mut stream).await);
    assert_eq!(proxy.metric("envoy_tls_inspector_client_hello_too_large").await, 1.0);
    assert_eq!(up.connections(), 0);
}

#[tokio::test]
async fn filters_see_what_those_before_them_left() {
    let (secret, plain) = (named("secret").await, named("plain").await);
    let filters = [filter(PROXY_PROTOCOL, ""), filter(TLS_INSPECTOR, "")].concat();
    let chains = [
        tcp_chain("server_names: [a.example.com], source_prefix_ranges: [{ address_prefix: 192.0.2.0, prefix_len: 24 }]", "secret"),
        tcp_chain("destination_port: 4711, source_ports: [9]", "plain"),
    ]
    .concat();
    let clusters = [("secret", &secret), ("plain", &plain)];
    let proxy = Proxy::start(&bootstrap("", &filters, &chains, &clusters)).await;
    let greeting = hello("a.example.com", &[]);
    let data = [b"PROXY TCP4 192.0.2.9 198.51.100.7 7 443\r\n", &greeting[..]].concat();
    assert_eq!(exchange(&proxy, &data).await, [b"secret:", &greeting[..]].concat());
    let data = b"PROXY TCP4 203.0.113.9 198.51.100.7 9 4711\r\nhello";
    assert_eq!(exchange(&proxy, data).await, b"plain:hello");
}

#[tokio::test]
async fn silence_ends_at_the_filters_timeout() {
    let up = named("up").await;
    let filters = filter(PROXY_PROTOCOL, "");
    let settings = "      listener_filters_timeout: 0.2s\n";
    let proxy = Proxy::start(&bootstrap(settings, &filters, &tcp_chain("", "up"), &[("up", &up)])).await;
    let mut stream = TcpStream::connect(proxy.at("main")).await.expect("connects");
    stream.write_all(b"PROXY TCP4").await.expect("writes");
    assert!(closes(&mut stream).await);
    assert_eq!(proxy.metric("envoy_listener_downstream_pre_cx_timeout").await, 1.0);
    drop(TcpStream::connect(proxy.at("main")).await.expect("connects"));
    wait_for_metric(&proxy, "envoy_listener_downstream_listener_filter_remote_close", 1.0).await;
}

#[tokio::test]
async fn a_chain_takes_as_many_connections_as_its_filter_allows() {
    let up = named("up").await;
    let chains = r#"        - filters:
            - name: limit
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit
                stat_prefix: two
                max_connections: 2
            - name: tcp
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: tcp
                cluster: up
"#;
    let proxy = Proxy::start(&bootstrap("", "", chains, &[("up", &up)])).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(proxy.at("main")).await.expect("connects");
        stream.read_exact(&mut [0; 3]).await.expect("reads");
        held.push(stream);
    }
    assert_eq!(proxy.metric("envoy_connection_limit_active_connections").await, 2.0);
    let mut third = TcpStream::connect(proxy.at("main")).await.expect("connects");
    assert!(closes(&mut third).await);
    assert_eq!(proxy.metric("envoy_connection_limit_limited_connections").await, 1.0);
    held.clear();
    wait_for_metric(&proxy, "envoy_connection_limit_active_connections", 0.0).await;
    assert_eq!(exchange(&proxy, b"x").await, b"up:x");
}

#[tokio::test]
async fn http_is_still_told_from_the_rest_after_the_tls_inspector() {
    let up = Upstream::echo().await;
    let filters = [
        filter(TLS_INSPECTOR, ""),
        filter("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector", ""),
    ]
    .concat();
    let chains = http_chain("application_protocols: [http/1.1], transport_protocol: raw_buffer");
    let proxy = Proxy::start(&bootstrap("", &filters, &chains, &[("up", &up)])).await;
    let answer = raw(proxy.at("main"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["200"]);
    assert_eq!(exchange(&proxy, &hello("a", &["http/1.1"])).await, b"");
    let mut other = TcpStream::connect(proxy.at("main")).await.expect("connects");
    other.write_all(b"\x01").await.expect("writes");
    let end = tokio::time::timeout(Duration::from_secs(1), other.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))));
}

#[tokio::test]
async fn a_listener_and_the_process_take_as_many_connections_as_the_runtime_allows() {
    let up = named("up").await;
    for (runtime, metric) in [
        (
            "envoy: { resource_limits: { listener: { main: { connection_limit: 2 } } } }",
            "envoy_listener_downstream_cx_overflow",
        ),
        ("overload.global_downstream_max_connections: 2", "envoy_listener_downstream_global_cx_overflow"),
    ] {
        let static_layer = format!(
            "layered_runtime:\n  layers:\n    - name: static\n      static_layer:\n        {runtime}\n"
        );
        let bootstrap = bootstrap("", "", &tcp_chain("", "up"), &[("up", &up)]);
        let proxy = Proxy::start(&format!("{static_layer}{bootstrap}")).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(proxy.at("main")).await.expect("connects");
            stream.read_exact(&mut [0; 3]).await.expect("reads");
            held.push(stream);
        }
        let mut third = TcpStream::connect(proxy.at("main")).await.expect("connects");
        assert!(closes(&mut third).await);
        assert_eq!(proxy.metric(metric).await, 1.0);
        held.clear();
        wait_for_metric(&proxy, "envoy_listener_downstream_cx_active", 0.0).await;
        assert_eq!(exchange(&proxy, b"x").await, b"up:x");
    }
}
