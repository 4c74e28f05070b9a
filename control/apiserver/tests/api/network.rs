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
