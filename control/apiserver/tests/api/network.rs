//! What only a real connection shows: TLS, tokens, certificates.

use http::Method;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::support::{PODS, Server, call, pod};

async fn client(server: &Server, user: Value) -> kube::Client {
    let mut kubeconfig: Value = serde_json::from_str(&server.api.admin_kubeconfig()).unwrap();
    if !user.is_null() {
        kubeconfig["users"][0]["user"] = user;
    }
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig.to_string()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

async fn get(client: &kube::Client, path: &str) -> crate::support::Answer {
    call(client, Method::GET, path, &[], Vec::new()).await
}

#[tokio::test]
async fn the_kubeconfig_works_over_https() {
    let server = Server::start().await;
    let admin = client(&server, Value::Null).await;
    let body = pod("a").to_string().into_bytes();
    call(&admin, Method::POST, PODS, &[], body).await.expect(201);
    assert_eq!(get(&admin, PODS).await.expect(200)["items"][0]["metadata"]["name"], "a");
}

#[tokio::test]
async fn tokens_are_accepted_expired_or_unknown() {
    let server = Server::start().await;
    let path = server.directory.path().join("tokens.csv");
    let made = std::fs::read_to_string(&path).unwrap();
    let token = made.split(',').next().unwrap();
    let admin = client(&server, json!({"token": token})).await;
    get(&admin, PODS).await.expect(200);
    std::fs::write(&path, format!("{made}old,eve,,,2020-01-01T00:00:00Z\n")).unwrap();
    let old = client(&server, json!({"token": "old"})).await;
    let message = get(&old, PODS).await.expect_failure(401, "Unauthorized");
    assert!(message.contains("expired"), "{message}");
    let unknown = client(&server, json!({"token": "nobody"})).await;
    let message = get(&unknown, "/version").await.expect_failure(401, "Unauthorized");
    assert!(message.contains("not known"), "{message}");
    let nobody = client(&server, json!({})).await;
    get(&nobody, "/version").await.expect(200);
    get(&nobody, PODS).await.expect_failure(403, "Forbidden");
}

#[tokio::test]
async fn certificates_of_another_authority_do_not_pass() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    let server = Server::start().await;
    let other = tempfile::tempdir().unwrap();
    let pki = weft_apiserver::pki::ClusterPki::open(other.path()).unwrap();
    let (cert, key) = pki.issue_client("root", &["system:masters"]).unwrap();
    let user = json!({
        "client-certificate-data": STANDARD.encode(cert), "client-key-data": STANDARD.encode(key),
    });
    let client = client(&server, user).await;
    let request = http::Request::get(PODS).body(kube::client::Body::empty()).unwrap();
    assert!(client.send(request).await.is_err());
}

#[tokio::test]
async fn the_server_ends_when_told_even_with_a_watch_open() {
    use http_body_util::BodyExt as _;

    let server = Server::start().await;
    let admin = client(&server, Value::Null).await;
    let request =
        http::Request::get("/api/v1/pods?watch=1&resourceVersion=1").body(kube::client::Body::empty());
    let mut response = admin.send(request.unwrap()).await.unwrap();
    server.shutdown.cancel();
    let end = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while response.body_mut().frame().await.is_some() {}
        server.api.stopped().await;
    });
    end.await.expect("the server ends");
}

/// An agent that serves one connection after another over TLS, to holders of a certificate of the cluster only.
async fn agent(server: &Server) -> u16 {
    use std::{convert::Infallible, sync::Arc};

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::{StreamBody, combinators::UnsyncBoxBody};
    use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};

    type Answer = http::Response<UnsyncBoxBody<Bytes, Infallible>>;

    async fn answer(request: http::Request<hyper::body::Incoming>) -> Result<Answer, Infallible> {
        let asked = request.uri().to_string();
        let line = Frame::data(Bytes::from(format!("asked {asked}\n")));
        let line = stream::once(async move { Ok(line) });
        // Who follows gets what there is at once, and then waits.
        let body = if asked.contains("follow=true") {
            StreamBody::new(line.chain(stream::pending()).boxed())
        } else {
            StreamBody::new(line.boxed())
        };
        Ok(http::Response::new(UnsyncBoxBody::new(body)))
    }

    let certificates = |pem: &str| -> Vec<_> {
        use rustls::pki_types::pem::PemObject as _;
        rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
    };
    let (cert, key) = server.api.pki().issue_server(&["127.0.0.1"]).unwrap();
    let key = rustls::pki_types::pem::PemObject::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificates(server.api.pki().ca_pem()).remove(0)).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&cert), key)
        .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = tls.accept(stream).await else { continue };
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, hyper::service::service_fn(answer)),
            );
        }
    });
    port
}

#[tokio::test]
async fn logs_and_paths_of_nodes_are_fetched_from_their_agents() {
    use http_body_util::BodyExt as _;

    let server = Server::start().await;
    let node = json!({"metadata": {"name": "n"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": agent(&server).await}},
    }});
    server.create("/api/v1/nodes", node).await;
    server.create(PODS, pod("a")).await;
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    server.post(&format!("{PODS}/a/binding"), binding).await.expect(201);
    let log = server.get(&format!("{PODS}/a/log?tailLines=5&timestamps=true&evil=1")).await;
    assert_eq!(log.code, 200);
    let text = String::from_utf8(log.bytes).unwrap();
    assert_eq!(text, "asked /containerLogs/default/a/c?tailLines=5&timestamps=true\n");
    let proxied = server.get("/api/v1/nodes/n/proxy/metrics/resource?a=b").await;
    assert_eq!(String::from_utf8(proxied.bytes).unwrap(), "asked /metrics/resource?a=b\n");
    let admin = client(&server, Value::Null).await;
    let request = http::Request::get(format!("{PODS}/a/log?follow=true")).body(kube::client::Body::empty());
    let mut response = admin.send(request.unwrap()).await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"asked /containerLogs/default/a/c?follow=true"));
}
