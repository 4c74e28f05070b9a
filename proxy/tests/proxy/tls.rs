//! TLS with clients: names, protocols, certificates, sessions, and what goes wrong.

use std::{sync::Arc, time::Duration};

use rcgen::{CertificateParams, SanType, string::Ia5String};
use rustls::{AlertDescription, ClientConfig, Error, HandshakeKind, pki_types::CertificateDer};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::support::{
    Proxy, Upstream, bootstrap, closes,
    pki::{self, Authority, Leaf, connect},
    raw,
};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// The bootstrap of one upstream behind a TLS listener, with further lines for the context and the manager.
fn over_tls(upstream: &Upstream, certificates: &[&Leaf], context: &str, manager: &str) -> String {
    let certificates: Vec<String> = certificates.iter().map(|leaf| leaf.yaml()).collect();
    let socket = format!(
        r#"        - transport_socket:
            name: tls
            typed_config:
              "@type": {TYPE}
              {}
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_certificates: [{}]
{}          filters:"#,
        if context.contains("validation_context") && !context.contains("optional") {
            "require_client_certificate: true"
        } else {
            ""
        },
        certificates.join(", "),
        context
            .lines()
            .filter(|line| *line != "optional")
            .fold(String::new(), |all, line| { format!("{all}                {line}\n") }),
    );
    bootstrap(&[upstream.address], manager, "", "").replacen("        - filters:", &socket, 1)
}

/// A context that wants certificates of this authority, under these conditions.
fn trusting(authority: &Authority, conditions: &str) -> String {
    format!("validation_context: {{ trusted_ca: {{ inline_string: {:?} }}{conditions} }}", authority.pem())
}

fn with_alpn(mut config: ClientConfig, protocols: &[&str]) -> Arc<ClientConfig> {
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Sends one request and reads the answer until the connection ends.
async fn ask(stream: &mut TlsStream<TcpStream>, fields: &str) -> std::io::Result<String> {
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Connects and asks; with TLS 1.3 a client learns only by reading that its certificate was refused.
async fn try_ask(proxy: &Proxy, config: &Arc<ClientConfig>) -> std::io::Result<String> {
    let mut stream = connect(config, proxy.at("http"), "a.test").await?;
    ask(&mut stream, "").await
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
}

/// The alert that an error of a client is about.
fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[tokio::test]
async fn the_certificate_is_the_one_for_the_name() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let leaves =
        [authority.leaf(&["default.test"]), authority.leaf(&["a.test"]), authority.leaf(&["*.b.test"])];
    let proxy = Proxy::start(&over_tls(&upstream, &leaves.each_ref(), "", "")).await;
    let config = Arc::new(pki::client(&authority, None));
    for (name, leaf) in [("a.test", &leaves[1]), ("A.test", &leaves[1]), ("x.b.test", &leaves[2])] {
        let mut stream = connect(&config, proxy.at("http"), name).await.expect(name);
        assert_eq!(shown(&stream), leaf.chain()[0], "{name}");
        assert!(ask(&mut stream, "").await.expect("an answer").starts_with("HTTP/1.1 200"));
    }
    // The wildcard stands for one label, so this is the default's, which the client does not take.
    let error = connect(&config, proxy.at("http"), "x.y.b.test").await.expect_err("another name");
    assert!(error.to_string().contains("certificate not valid for name"), "{error}");
}

#[tokio::test]
async fn the_protocol_is_agreed_on_and_an_unknown_one_refused() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let proxy = Proxy::start(&over_tls(&upstream, &[&authority.leaf(&["a.test"])], "", "")).await;
    let alpn = async |protocols: &[&str]| {
        let config = with_alpn(pki::client(&authority, None), protocols);
        let stream = connect(&config, proxy.at("http"), "a.test").await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(alpn(&["http/1.1"]).await.expect("agreed"), Some(b"http/1.1".to_vec()));
    assert_eq!(alpn(&["http/1.1", "h2"]).await.expect("agreed"), Some(b"h2".to_vec()));
    assert_eq!(alpn(&[]).await.expect("agreed"), None);
    let error = alpn(&["imap"]).await.expect_err("refused");
    assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol));
}

#[tokio::test]
async fn http2_runs_over_tls() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let proxy = Proxy::start(&over_tls(&upstream, &[&authority.leaf(&["a.test"])], "", "")).await;
    let config = with_alpn(pki::client(&authority, None), &["h2"]);
    let stream = connect(&config, proxy.at("http"), "a.test").await.expect("connects");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("http/2");
    tokio::spawn(connection);
    for _ in 0..3 {
        sender = sender.ready().await.expect("ready");
        let request = http::Request::post("https://a.test/x").body(()).expect("a request");
        let (response, mut body) = sender.send_request(request, false).expect("sent");
        body.send_data(vec![b'x'; 1000].into(), true).expect("sent");
        let response = response.await.expect("an answer");
        assert_eq!(response.status(), 200);
        let mut answer = response.into_body();
        let mut text = Vec::new();
        while let Some(data) = answer.data().await {
            text.extend_from_slice(&data.expect("data"));
        }
        let text = String::from_utf8_lossy(&text).to_ascii_lowercase();
        assert!(text.contains("x-forwarded-proto: https\r\n"), "{text}");
        assert!(text.contains(&"x".repeat(1000)), "{text}");
    }
}

#[tokio::test]
async fn megabytes_pass_both_ways() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let proxy = Proxy::start(&over_tls(&upstream, &[&authority.leaf(&["a.test"])], "", "")).await;
    let config = Arc::new(pki::client(&authority, None));
    let mut stream = connect(&config, proxy.at("http"), "a.test").await.expect("connects");
    let body: Vec<u8> = (0..3_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let head =
        format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream.write_all(&body).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an orderly end");
    assert!(answer.ends_with(&body), "{} bytes", answer.len());
}

#[tokio::test]
async fn a_client_certificate_is_required_and_must_be_of_the_authority() {
    let upstream = Upstream::echo().await;
    let (authority, other) = (Authority::new(), Authority::new());
    let leaf = authority.leaf(&["a.test"]);
    let proxy = Proxy::start(&over_tls(&upstream, &[&leaf], &trusting(&authority, ""), "")).await;
    let good = Arc::new(pki::client(&authority, Some(&authority.leaf(&["client.test"]))));
    assert!(try_ask(&proxy, &good).await.expect("an answer").starts_with("HTTP/1.1 200"));
    let none = Arc::new(pki::client(&authority, None));
    let error = try_ask(&proxy, &none).await.expect_err("refused");
    assert_eq!(alert(&error), Some(AlertDescription::CertificateRequired));
    let wrong = Arc::new(pki::client(&authority, Some(&other.leaf(&["client.test"]))));
    let error = try_ask(&proxy, &wrong).await.expect_err("refused");
    assert_eq!(alert(&error), Some(AlertDescription::UnknownCA));
    let mut params = CertificateParams::new(vec!["client.test".into()]).expect("names");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let expired = Arc::new(pki::client(&authority, Some(&authority.issue(params))));
    let error = try_ask(&proxy, &expired).await.expect_err("refused");
    assert_eq!(alert(&error), Some(AlertDescription::CertificateExpired));
    assert_eq!(proxy.metric("envoy_listener_ssl_handshake").await, 1.0);
    assert_eq!(proxy.metric("envoy_listener_ssl_fail_verify_no_cert").await, 1.0);
    assert_eq!(proxy.metric("envoy_listener_ssl_fail_verify_error").await, 2.0);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_wrong() {
    let upstream = Upstream::echo().await;
    let (authority, other) = (Authority::new(), Authority::new());
    let context = format!("{}\noptional", trusting(&authority, ""));
    let proxy = Proxy::start(&over_tls(&upstream, &[&authority.leaf(&["a.test"])], &context, "")).await;
    let none = Arc::new(pki::client(&authority, None));
    assert!(try_ask(&proxy, &none).await.expect("an answer").starts_with("HTTP/1.1 200"));
    assert_eq!(proxy.metric("envoy_listener_ssl_no_certificate").await, 1.0);
    let wrong = Arc::new(pki::client(&authority, Some(&other.leaf(&["client.test"]))));
    try_ask(&proxy, &wrong).await.expect_err("refused");
}

#[tokio::test]
async fn a_client_must_have_one_of_the_names() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let conditions = r#", match_typed_subject_alt_names: [
        { san_type: URI, matcher: { prefix: "spiffe://mesh.test/ns/" } },
        { san_type: DNS, matcher: { exact: client.test } },
        { san_type: IP_ADDRESS, matcher: { exact: 10.1.2.3 } }]"#
        .replace('\n', " ");
    let leaf = authority.leaf(&["a.test"]);
    let proxy = Proxy::start(&over_tls(&upstream, &[&leaf], &trusting(&authority, &conditions), "")).await;
    let nul = {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        let name = Ia5String::try_from("client.test\0.evil.test").expect("a name");
        params.subject_alt_names = vec![SanType::DnsName(name)];
        authority.issue(params)
    };
    let address = {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.subject_alt_names = vec![SanType::IpAddress([10, 1, 2, 3].into())];
        authority.issue(params)
    };
    let cases = [
        ("the namespace", authority.identity(&["spiffe://mesh.test/ns/a/sa/b"]), true),
        ("the name", authority.leaf(&["other.test", "client.test"]), true),
        ("a wildcard", authority.leaf(&["*.test"]), true),
        ("the address", address, true),
        ("another trust domain", authority.identity(&["spiffe://evil.test/ns/a/sa/b"]), false),
        (
            "two identities",
            authority.identity(&["spiffe://mesh.test/ns/a", "spiffe://mesh.test/ns/b"]),
            false,
        ),
        ("another name", authority.leaf(&["client.test.evil.test"]), false),
        ("a uri as a name", authority.identity(&["client.test"]), false),
        ("a name with a NUL", nul, false),
    ];
    for (what, leaf, good) in cases {
        let config = Arc::new(pki::client(&authority, Some(&leaf)));
        assert_eq!(try_ask(&proxy, &config).await.is_ok(), good, "{what}");
    }
    assert_eq!(proxy.metric("envoy_listener_ssl_handshake").await, 4.0);
}

#[tokio::test]
async fn a_session_is_resumed() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let proxy = Proxy::start(&over_tls(&upstream, &[&authority.leaf(&["a.test"])], "", "")).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        let config = Arc::new(config);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut stream = connect(&config, proxy.at("http"), "a.test").await.expect("connects");
            kinds.push(stream.get_ref().1.handshake_kind().expect("done"));
            ask(&mut stream, "").await.expect("an answer");
        }
        assert_ne!(kinds[0], HandshakeKind::Resumed, "{version:?}");
        assert_eq!(kinds[1..], [HandshakeKind::Resumed; 2], "{version:?}");
    }
    assert_eq!(proxy.metric("envoy_listener_ssl_session_reused").await, 4.0);
}

#[tokio::test]
async fn plaintext_to_a_tls_port_ends_with_an_alert_and_the_reverse_with_an_answer() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let proxy = Proxy::start(&over_tls(&upstream, &[&authority.leaf(&["a.test"])], "", "")).await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an orderly end");
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    assert_eq!(proxy.metric("envoy_listener_ssl_connection_error").await, 1.0);

    let plain = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    let answer = raw(plain.at("http"), "\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_stalls_is_given_up() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let config = over_tls(&upstream, &[&authority.leaf(&["a.test"])], "", "").replacen(
        "        - transport_socket:",
        "        - transport_socket_connect_timeout: 0.2s\n          transport_socket:",
        1,
    );
    let proxy = Proxy::start(&config).await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    stream.write_all(&[22, 3, 1]).await.expect("writes");
    assert!(closes(&mut stream).await);
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_not_taken_for_whole() {
    // The request ends with the connection, and without the client's word for it.
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let proxy = Proxy::start(&over_tls(&upstream, &[&authority.leaf(&["a.test"])], "", "")).await;
    let config = Arc::new(pki::client(&authority, None));
    let mut stream = connect(&config, proxy.at("http"), "a.test").await.expect("connects");
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nhalf").await.expect("writes");
    stream.flush().await.expect("writes");
    let (mut socket, _) = stream.into_inner();
    socket.shutdown().await.expect("ends");
    let mut rest = Vec::new();
    // An answer may come (400), but never one of the upstream.
    let _ = tokio::time::timeout(Duration::from_secs(2), socket.read_to_end(&mut rest)).await;
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_xx").await, 0.0);
}

#[tokio::test]
async fn upstreams_learn_who_the_client_is_from_nobody_else() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let leaf = authority.identity(&["spiffe://mesh.test/proxy"]);
    let names = authority.leaf(&["a.test"]);
    let client = Arc::new(pki::client(&authority, Some(&authority.identity(&["spiffe://mesh.test/client"]))));
    let lied = "x-forwarded-client-cert: By=spiffe://mesh.test/liar\r\n";
    let details = "set_current_client_cert_details: { uri: true, subject: true }\n";
    for (manager, expected) in [
        (String::new(), None),
        (format!("forward_client_cert_details: SANITIZE_SET\n{details}"), Some("By=")),
        (
            format!("forward_client_cert_details: APPEND_FORWARD\n{details}"),
            Some("By=spiffe://mesh.test/liar,"),
        ),
        ("forward_client_cert_details: FORWARD_ONLY\n".to_owned(), Some("By=spiffe://mesh.test/liar\r")),
    ] {
        let context = trusting(&authority, "");
        let config = over_tls(&upstream, &[&names, &leaf], &context, &manager);
        let proxy = Proxy::start(&config).await;
        let mut stream = connect(&client, proxy.at("http"), "a.test").await.expect("connects");
        let answer = ask(&mut stream, lied).await.expect("an answer");
        let field = answer.lines().find_map(|line| line.strip_prefix("x-forwarded-client-cert: "));
        match (expected, field) {
            (None, None) => {}
            (Some("By="), Some(field)) => {
                assert!(!field.contains("liar"), "{field}");
                assert!(field.contains(";URI=spiffe://mesh.test/client"), "{field}");
            }
            (Some(start), Some(field)) => {
                assert!(format!("{field}\r").starts_with(start), "{field}");
            }
            (expected, field) => panic!("{expected:?}: {field:?}"),
        }
    }
}

#[tokio::test]
async fn only_a_peer_with_a_certificate_is_told_what_went_wrong() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let leaf = authority.leaf(&["a.test"]);
    let context = format!("optional\n{}", trusting(&authority, ""));
    let proxy = Proxy::start(&over_tls(&upstream, &[&leaf], &context, "")).await;
    let known = pki::client(&authority, Some(&authority.leaf(&["client.test"])));
    for (config, told) in [(known, true), (pki::client(&authority, None), false)] {
        let mut stream = connect(&Arc::new(config), proxy.at("http"), "a.test").await.expect("connects");
        let answer = ask(&mut stream, "expect: 200-maybe\r\n").await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 417"), "{answer}");
        assert_eq!(answer.contains("x-weft-error: http1.expectation_failed\r\n"), told, "{answer}");
    }
}

#[tokio::test]
async fn the_access_log_tells_the_session_and_who_the_client_is() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let log = format!(
        r#"access_log:
  - name: file
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
      path: {path:?}
      log_format: {{ json_format: {{ version: '%DOWNSTREAM_TLS_VERSION%', cipher: '%DOWNSTREAM_TLS_CIPHER%',
        subject: '%DOWNSTREAM_PEER_SUBJECT%', uri: '%DOWNSTREAM_PEER_URI_SAN%', scheme: '%REQ(:SCHEME)%',
        fingerprint: '%DOWNSTREAM_PEER_FINGERPRINT_256%' }} }}
"#
    );
    let leaf = authority.leaf(&["a.test"]);
    let context = format!("{}\noptional", trusting(&authority, ""));
    let proxy = Proxy::start(&over_tls(&upstream, &[&leaf], &context, &log)).await;
    let known = pki::client(&authority, Some(&authority.identity(&["spiffe://mesh.test/client"])));
    try_ask(&proxy, &Arc::new(known)).await.expect("an answer");
    let unknown = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    try_ask(&proxy, &Arc::new(unknown)).await.expect("an answer");
    let text = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() == 2 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let text = text.await.expect("two lines");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    let of = |name: &str| lines.iter().find(|line| line["version"] == name).expect("a line");
    let (known, unknown) = (of("TLSv1.3"), of("TLSv1.2"));
    assert_eq!(known["uri"], "spiffe://mesh.test/client");
    assert_eq!(known["cipher"], "TLS_AES_256_GCM_SHA384");
    assert_eq!(known["scheme"], "https");
    assert_eq!(known["fingerprint"].as_str().map(str::len), Some(64));
    assert_eq!(known["subject"], "CN=rcgen self signed cert");
    assert!(unknown["cipher"].as_str().is_some_and(|name| name.starts_with("ECDHE-ECDSA-AES")), "{unknown}");
    assert!(unknown["uri"].is_null() && unknown["subject"].is_null() && unknown["fingerprint"].is_null());
}
