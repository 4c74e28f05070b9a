//! TLS with upstreams: whom the proxy believes, who it says it is, and sessions that are resumed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::HandshakeKind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use weft_proxy::server::validate;
use weft_xds::json::{Format, parse_bootstrap};

use crate::support::{
    Proxy, Upstream, bootstrap,
    pki::{self, Authority, Leaf},
    raw, statuses,
};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// A server that answers one request per connection and counts resumed sessions.
async fn server(leaf: &Leaf, clients: Option<&Authority>) -> (Upstream, Arc<AtomicUsize>) {
    let acceptor = TlsAcceptor::from(Arc::new(pki::server(leaf, clients)));
    let resumed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&resumed);
    let upstream = Upstream::scripted(move |stream: TcpStream, _| {
        let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            let mut request = vec![0; 4096];
            if !matches!(stream.read(&mut request).await, Ok(count) if count > 0) {
                return;
            }
            let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    (upstream, resumed)
}

/// The bootstrap of a proxy that speaks TLS with this upstream.
fn over_tls(upstream: &Upstream, context: &str) -> String {
    let cluster = format!(
        "transport_socket:\n  name: tls\n  typed_config:\n    \"@type\": {TYPE}\n    sni: up.test\n{}",
        context.lines().fold(String::new(), |all, line| format!("{all}    {line}\n"))
    );
    bootstrap(&[upstream.address], "", "", &cluster)
}

fn trusting(authority: &Authority, conditions: &str, more: &str) -> String {
    format!(
        "common_tls_context:\n  validation_context: {{ trusted_ca: {{ inline_string: {:?} }}{conditions} }}\n{more}",
        authority.pem()
    )
}

async fn status(config: &str) -> String {
    let proxy = Proxy::start(config).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    statuses(&answer).first().map_or(String::new(), |status| (*status).to_owned())
}

#[tokio::test]
async fn the_upstream_must_be_of_the_authority_and_have_one_of_the_names() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (up, _) = server(&authority.identity(&["spiffe://mesh.test/up"]), None).await;
    let name = |uri: &str| {
        format!(", match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: \"{uri}\" }} }}]")
    };
    assert_eq!(status(&over_tls(&up, "")).await, "200", "no authority, no question");
    assert_eq!(status(&over_tls(&up, &trusting(&authority, "", ""))).await, "200");
    assert_eq!(
        status(&over_tls(&up, &trusting(&authority, &name("spiffe://mesh.test/up"), ""))).await,
        "200"
    );
    assert_eq!(
        status(&over_tls(&up, &trusting(&authority, &name("spiffe://mesh.test/down"), ""))).await,
        "503"
    );
    assert_eq!(status(&over_tls(&up, &trusting(&other, "", ""))).await, "503");
    let by_name = format!("auto_sni_san_validation: true\n{}", trusting(&authority, "", ""));
    assert_eq!(status(&over_tls(&up, &by_name)).await, "503", "the certificate is for no DNS name");
}

#[tokio::test]
async fn the_proxy_shows_its_certificate() {
    let authority = Authority::new();
    let (up, _) = server(&authority.leaf(&["up.test"]), Some(&authority)).await;
    let ours =
        format!("  tls_certificates: [{}]\n", authority.identity(&["spiffe://mesh.test/proxy"]).yaml());
    assert_eq!(status(&over_tls(&up, &trusting(&authority, "", &ours))).await, "200");
    assert_ne!(status(&over_tls(&up, &trusting(&authority, "", ""))).await, "200");
}

#[tokio::test]
async fn sessions_are_resumed_across_connections() {
    let authority = Authority::new();
    let (up, resumed) = server(&authority.leaf(&["up.test"]), None).await;
    let proxy = Proxy::with_threads(&over_tls(&up, &trusting(&authority, "", "")), 1).await;
    for _ in 0..3 {
        let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert_eq!(statuses(&answer), ["200"]);
    }
    assert_eq!(resumed.load(Ordering::SeqCst), 2);
    assert_eq!(proxy.metric("envoy_cluster_ssl_session_reused").await, 2.0);
    assert_eq!(proxy.metric("envoy_cluster_ssl_handshake").await, 3.0);
}

#[tokio::test]
async fn a_response_until_close_that_is_cut_short_breaks_the_clients_too() {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::from(Arc::new(pki::server(&authority.leaf(&["up.test"]), None)));
    let up = Upstream::scripted(move |stream: TcpStream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf").await;
            let _ = stream.flush().await;
            // The socket ends, the session does not.
            let (mut socket, _) = stream.into_inner();
            let _ = socket.shutdown().await;
        }
    })
    .await;
    let proxy = Proxy::start(&over_tls(&up, "")).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn health_checks_are_made_over_the_tls_of_the_cluster() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (up, _) = server(&authority.leaf(&["up.test"]), None).await;
    let http = "http_health_check: { path: /healthz }";
    for (trusted, probe, healthy) in [
        (&authority, http, "1"),
        (&authority, "tcp_health_check: {}", "1"),
        (&other, http, "0"),
        (&other, "tcp_health_check: {}", "0"),
    ] {
        let check = format!(
            "health_checks: [{{ timeout: 1s, interval: 0.05s, healthy_threshold: 1, unhealthy_threshold: 1, {probe} }}]\n"
        );
        let config = over_tls(&up, &trusting(trusted, "", "")).replacen(
            "      load_assignment:",
            &format!("      {check}      load_assignment:"),
            1,
        );
        let before = up.connections();
        let proxy = Proxy::start(&config).await;
        // The second check begins when the first has been judged.
        let judged = tokio::time::timeout(Duration::from_secs(10), async {
            while up.connections() < before + 2 {
                tokio::task::yield_now().await;
            }
        });
        judged.await.expect("checks are made");
        assert_eq!(proxy.metric("envoy_cluster_membership_healthy").await.to_string(), healthy, "{probe}");
    }
}

#[test]
fn what_is_not_checked_is_not_promised() {
    let cluster = format!(
        "transport_socket: {{ name: tls, typed_config: {{ \"@type\": {TYPE}, enforce_rsa_key_usage: true }} }}"
    );
    let config = bootstrap(&[([127, 0, 0, 1], 1).into()], "", "", &cluster);
    let parsed = parse_bootstrap(&config, Format::Yaml).expect("a bootstrap");
    let refusal = validate(parsed).expect_err("refused").to_string();
    assert!(refusal.contains("transport_socket.typed_config.enforce_rsa_key_usage"), "{refusal}");
}
