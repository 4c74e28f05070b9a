//! Upstreams that are told, ahead of everything else, for whom a connection is.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{Proxy, Upstream, bootstrap, read_request, wait_for_metric};

/// Settings of a cluster whose connections begin with a header of this version.
fn socket(version: &str) -> String {
    format!(
        r#"transport_socket:
  name: proxy
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport
    config: {{ version: {version} }}
    transport_socket:
      name: plain
      typed_config: {{ "@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer }}
"#
    )
}

/// The bootstrap, with bytes passed on instead of requests, and with `filters` before that.
fn tcp(upstream: &Upstream, version: &str, filters: &str) -> String {
    let cluster: String = socket(version).lines().map(|line| format!("      {line}\n")).collect();
    format!(
        r#"static_resources:
  listeners:
    - name: tcp
      address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
{filters}      filter_chains:
        - filters:
            - name: tcp
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: tcp
                cluster: up
  clusters:
    - name: up
{cluster}      load_assignment:
        cluster_name: up
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }}
"#,
        upstream.address.port()
    )
}

/// Sends back all that it gets.
async fn mirror() -> Upstream {
    Upstream::scripted(|mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// What the upstream of a proxy gets for `data`, and the address of the client that sent it.
async fn passed_on(proxy: &Proxy, data: &[u8]) -> (Vec<u8>, SocketAddr) {
    let mut stream = TcpStream::connect(proxy.at("tcp")).await.expect("connects");
    stream.write_all(data).await.expect("writes");
    stream.shutdown().await.expect("half-closes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("reads");
    (answer, stream.local_addr().expect("an address"))
}

#[tokio::test]
async fn a_connection_begins_with_who_the_client_is_in_either_version() {
    let up = mirror().await;
    let proxy = Proxy::start(&tcp(&up, "V1", "")).await;
    let (passed, client) = passed_on(&proxy, b"hello").await;
    let line =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", client.port(), proxy.at("tcp").port());
    assert_eq!(String::from_utf8_lossy(&passed), line);
    let proxy = Proxy::start(&tcp(&up, "V2", "")).await;
    let (passed, client) = passed_on(&proxy, b"hello").await;
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
    header.extend(client.port().to_be_bytes());
    header.extend(proxy.at("tcp").port().to_be_bytes());
    assert_eq!(passed, [&header[..], b"hello"].concat());
}

#[tokio::test]
async fn who_came_in_with_a_header_goes_out_with_it() {
    let up = mirror().await;
    let filters = r#"      listener_filters:
        - name: proxy
          typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol }
"#;
    let proxy = Proxy::start(&tcp(&up, "V1", filters)).await;
    let sent = b"PROXY TCP6 2001:db8::1 2001:db8::2 7 443\r\nhello";
    assert_eq!(passed_on(&proxy, sent).await.0, sent);
}

/// Reads the line that a connection begins with, and gives it as the answer to each request on it.
async fn introduced() -> Upstream {
    Upstream::scripted(|mut stream, _| async move {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            line.push(byte);
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_kept_connection_serves_nobody_but_the_client_that_it_was_opened_for() {
    let up = introduced().await;
    let proxy = Proxy::with_threads(&bootstrap(&[up.address], "", "", &socket("V1")), 1).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(TcpStream::connect(proxy.at("http")).await.expect("connects"));
    }
    for _ in 0..3 {
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
            let wanted = format!(
                "\r\n\r\nPROXY TCP4 127.0.0.1 127.0.0.1 {} {}",
                client.local_addr().expect("an address").port(),
                proxy.at("http").port()
            );
            let mut answer = Vec::new();
            while !answer.ends_with(wanted.as_bytes()) {
                assert_ne!(client.read_buf(&mut answer).await.expect("reads"), 0, "{answer:?}");
            }
        }
    }
    assert_eq!(up.connections(), 2, "a client's own connection is kept for it");
}

#[tokio::test]
async fn a_health_check_comes_for_nobody_else() {
    let up = Upstream::scripted(|mut stream, _| async move {
        let mut header = [0; 16];
        let _ = stream.read_exact(&mut header).await;
        if header == *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" {
            let _ = read_request(&mut stream, &mut Vec::new()).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let check = "health_checks: [{ timeout: 5s, interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: { path: /healthz } }]\n";
    let cluster = format!("{check}{}", socket("V2"));
    let proxy = Proxy::start(&bootstrap(&[up.address], "", "", &cluster)).await;
    wait_for_metric(&proxy, "envoy_cluster_membership_healthy", 1.0).await;
}

#[test]
fn what_cannot_be_said_on_shared_connections_is_refused() {
    let http2 = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: {} }
"#;
    let one = [([127, 0, 0, 1], 1).into()];
    let twice = socket("V1").replace(
        "raw_buffer.v3.RawBuffer",
        "proxy_protocol.v3.ProxyProtocolUpstreamTransport, transport_socket: { name: a, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer } }",
    );
    for (cluster, refusal) in [
        (
            format!("{http2}{}", socket("V2")),
            "static_resources.clusters[0].transport_socket: the PROXY protocol is only supported with HTTP/1 and TCP upstreams",
        ),
        (
            twice,
            "static_resources.clusters[0].transport_socket.typed_config.transport_socket: there can be only one PROXY protocol header",
        ),
    ] {
        let message = parse_bootstrap(&bootstrap(&one, "", "", &cluster), Format::Yaml).expect("parses");
        assert_eq!(validate(message).expect_err(&cluster).to_string(), refusal);
    }
}
