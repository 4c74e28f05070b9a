//! Secrets: named, in files, and renewed while connections go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::{client::Resumption, pki_types::CertificateDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;

use crate::support::{
    Proxy, Upstream, bootstrap,
    pki::{self, Authority, Leaf, connect},
};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The bootstrap of a TLS listener with this context.
fn over_tls(upstream: &Upstream, context: &str) -> String {
    let socket = format!(
        "        - transport_socket: {{ name: tls, typed_config: {{ \"@type\": {TYPE}, common_tls_context: {context} }} }}\n          filters:"
    );
    bootstrap(&[upstream.address], "", "", "").replacen("        - filters:", &socket, 1)
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
}

async fn exchange(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("writes");
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.expect("an answer");
    assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
}

fn secret(leaf: &Leaf) -> String {
    format!("{{ resources: [{{ \"@type\": {SECRET}, name: ours, tls_certificate: {} }}] }}", leaf.yaml())
}

#[tokio::test]
async fn a_secret_of_the_bootstrap_is_found_by_its_name() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let leaf = authority.leaf(&["a.test"]);
    let config = over_tls(&upstream, "{ tls_certificate_sds_secret_configs: [{ name: ours }] }").replacen(
        "static_resources:\n",
        &format!("static_resources:\n  secrets: [{{ name: ours, tls_certificate: {} }}]\n", leaf.yaml()),
        1,
    );
    let proxy = Proxy::start(&config).await;
    let config = Arc::new(pki::client(&authority, None));
    let mut stream = connect(&config, proxy.at("http"), "a.test").await.expect("connects");
    exchange(&mut stream).await;
    assert_eq!(shown(&stream), leaf.chain()[0]);
}

#[tokio::test]
async fn a_renewed_secret_serves_new_connections_and_drops_none() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let (old, new) = (authority.leaf(&["a.test"]), authority.leaf(&["a.test"]));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret.yaml");
    std::fs::write(&file, secret(&old)).expect("written");
    let context = format!(
        "{{ tls_certificate_sds_secret_configs: [{{ name: ours, sds_config: {{ path_config_source: {{ path: {file:?} }} }} }}] }}"
    );
    let proxy = Proxy::start(&over_tls(&upstream, &context)).await;
    let config = Arc::new(pki::client(&authority, None));
    let mut kept = Vec::new();
    for _ in 0..8 {
        kept.push(connect(&config, proxy.at("http"), "a.test").await.expect("connects"));
    }
    let other = folder.path().join("other.yaml");
    std::fs::write(&other, secret(&new)).expect("written");
    std::fs::rename(&other, &file).expect("renamed");
    let renewed = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let mut stream = connect(&config, proxy.at("http"), "a.test").await.expect("connects");
            exchange(&mut stream).await;
            if shown(&stream) == new.chain()[0] {
                return;
            }
        }
    });
    renewed.await.expect("the new certificate is shown");
    for stream in &mut kept {
        exchange(stream).await;
        assert_eq!(shown(stream), old.chain()[0]);
    }
}

#[tokio::test]
async fn files_change_under_load_and_no_request_fails() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let (old, new) = (authority.leaf(&["a.test"]), authority.leaf(&["a.test"]));
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let replace = |name: &str, text: &str| {
        std::fs::write(path("next"), text).expect("written");
        std::fs::rename(path("next"), path(name)).expect("renamed");
    };
    replace("certificate", &old.certificate);
    replace("key", &old.key);
    let context = format!(
        "{{ tls_certificates: [{{ watched_directory: {{ path: {:?} }}, certificate_chain: {{ filename: {:?} }}, private_key: {{ filename: {:?} }} }}] }}",
        folder.path(),
        path("certificate"),
        path("key")
    );
    let proxy = Proxy::start(&over_tls(&upstream, &context)).await;
    // No session is taken up again: each handshake shows a certificate.
    let mut config = pki::client(&authority, None);
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let address = proxy.at("http");
    let seen = Arc::new(AtomicUsize::new(0));
    let changed = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..50 {
        let (config, seen, changed) = (Arc::clone(&config), Arc::clone(&seen), Arc::clone(&changed));
        let (before, after) = (old.chain()[0].clone(), new.chain()[0].clone());
        clients.spawn(async move {
            // Half of them keep one connection, half begin a new one for each request.
            let mut stream = connect(&config, address, "a.test").await.expect("connects");
            assert_eq!(shown(&stream), before);
            let mut requests = 0;
            loop {
                let last = changed.load(Ordering::SeqCst);
                exchange(&mut stream).await;
                requests += 1;
                if requests == 1 {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                if last {
                    return requests;
                }
                if number % 2 == 0 {
                    stream = connect(&config, address, "a.test").await.expect("connects");
                    let shown = shown(&stream);
                    assert!(shown == before || shown == after);
                }
            }
        });
    }
    let swap = tokio::time::timeout(Duration::from_secs(30), async {
        while seen.load(Ordering::SeqCst) < 50 {
            tokio::task::yield_now().await;
        }
        // For a moment they do not fit, as when somebody copies them one after the other.
        replace("certificate", &new.certificate);
        replace("key", &new.key);
        loop {
            let mut stream = connect(&config, address, "a.test").await.expect("connects");
            exchange(&mut stream).await;
            if shown(&stream) == new.chain()[0] {
                return;
            }
        }
    });
    swap.await.expect("the new certificate is shown");
    changed.store(true, Ordering::SeqCst);
    let requests = clients.join_all().await;
    assert!(requests.iter().all(|requests| *requests > 1), "{requests:?}");
    assert_eq!(proxy.metric("envoy_listener_ssl_connection_error").await, 0.0);
}

#[tokio::test]
async fn the_admin_address_shows_the_certificates_in_force() {
    let upstream = Upstream::echo().await;
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, authority.pem()).expect("written");
    let leaf = authority.identity(&["spiffe://mesh.test/a"]);
    let context = format!(
        "{{ tls_certificates: [{}], validation_context: {{ trusted_ca: {{ filename: {trusted:?} }} }} }}",
        leaf.yaml()
    );
    let proxy = Proxy::start(&over_tls(&upstream, &context)).await;
    let shown: Value = serde_json::from_str(&proxy.admin("GET", "/certs").await).expect("json");
    let only = &shown["certificates"].as_array().expect("a list")[..];
    assert_eq!(only.len(), 1, "{shown}");
    assert_eq!(only[0]["ca_cert"][0]["path"], trusted.to_str().expect("text"));
    let ours = &only[0]["cert_chain"][0];
    assert_eq!(ours["path"], "<inline>");
    assert_eq!(ours["subject_alt_names"], json!([{"uri": "spiffe://mesh.test/a"}]));
    // What rcgen gives when not asked.
    assert_eq!(ours["valid_from"], "1975-01-01T00:00:00Z");
    assert_eq!(ours["expiration_time"], "4096-01-01T00:00:00Z");
    assert!(ours["days_until_expiration"].as_str().and_then(|days| days.parse::<u64>().ok()) > Some(700_000));
    assert!(ours["serial_number"].as_str().is_some_and(|serial| serial.len() > 8), "{ours}");
}
