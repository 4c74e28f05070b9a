//! Tokens whose keys a server gives out.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::{io::AsyncWriteExt as _, time::Instant};

use crate::{
    filters::{TO_UP, filter, filtered, get},
    support::{
        Proxy, Upstream,
        grpc::{cluster, with_clusters},
        read_request, statuses, wait_for_metric,
    },
};

/// Who issues tokens.
struct Issuer {
    pair: Ed25519KeyPair,
    id: &'static str,
}

/// What the server does.
#[derive(Clone)]
enum Serves {
    Keys(String),
    Status(u16),
    Nothing,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        Self { pair: Ed25519KeyPair::generate().expect("a key"), id }
    }

    fn keys(&self) -> Serves {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        Serves::Keys(format!(
            "{{\"keys\": [{{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"kid\": \"{}\", \"x\": \"{x}\"}}]}}",
            self.id
        ))
    }

    /// The line of a request that carries a good token.
    fn token(&self) -> String {
        let part = |json: String| URL_SAFE_NO_PAD.encode(json);
        let header = part(format!("{{\"alg\": \"EdDSA\", \"kid\": \"{}\"}}", self.id));
        let signed = format!("{header}.{}", part("{\"iss\": \"i\", \"exp\": 4102444800}".into()));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()).as_ref());
        format!("authorization: Bearer {signed}.{signature}\r\n")
    }
}

/// A server of keys.
async fn server(serves: &Arc<Mutex<Serves>>) -> Upstream {
    let serves = Arc::clone(serves);
    Upstream::scripted(move |mut stream, _| {
        let serves = Arc::clone(&serves);
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer).await {
                assert!(request.starts_with(b"GET /keys?v=1 HTTP/1.1\r\nhost: issuer:80\r\n"));
                let now = serves.lock().expect("a lock").clone();
                let (status, body) = match now {
                    Serves::Keys(keys) => (200, keys),
                    Serves::Status(status) => (status, String::new()),
                    Serves::Nothing => return pending().await,
                };
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// A proxy that wants tokens whose keys come from there, with these further settings.
async fn proxy(keys: &Upstream, settings: &str) -> (Proxy, Upstream) {
    let up = Upstream::echo().await;
    let fields = format!(
        "providers: {{ p: {{ issuer: i, remote_jwks: {{ http_uri: {{ uri: 'https://issuer:80/keys?v=1', cluster: keys, timeout: 1s }}, {settings} }} }} }}, rules: [{{ match: {{ prefix: /free }} }}, {{ match: {{ prefix: / }}, requires: {{ provider_name: p }} }}]"
    );
    let text = filtered(up.address, &[&filter("jwt", "jwt_authn.v3.JwtAuthentication", &fields)], &[TO_UP]);
    let text = with_clusters(&text, &[cluster("keys", keys.address, "")]);
    // One thread, so that whatever blocks it is noticed.
    (Proxy::with_threads(&text, 1).await, up)
}

/// Waits until requests with this token are answered so.
async fn until(proxy: &Proxy, token: &str, status: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while statuses(&get(proxy, "/", token).await) != [status] {
        assert!(Instant::now() < deadline, "never {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn keys_are_fetched_once_for_many_and_rotated_ones_are_picked_up() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let serves = Arc::new(Mutex::new(old.keys()));
    let keys = server(&serves).await;
    let (proxy, _up) = proxy(&keys, "cache_duration: 2s").await;
    let token = old.token();
    let answers = futures::future::join_all((0..20).map(|_| get(&proxy, "/", &token))).await;
    assert!(answers.iter().all(|answer| statuses(answer) == ["200"]), "{answers:?}");
    assert_eq!(proxy.metric("envoy_http_jwt_authn_jwks_fetch_success").await, 1.0);
    assert_eq!(keys.connections(), 1);

    *serves.lock().expect("a lock") = new.keys();
    until(&proxy, &new.token(), "200").await;
    let answer = get(&proxy, "/", &token).await;
    assert!(answer.ends_with("Jwks doesn't have key to match kid or alg from Jwt"), "{answer}");
}

#[tokio::test]
async fn without_keys_tokens_are_refused_and_nothing_else_is_held_up() {
    let issuer = Issuer::new("k");
    let serves = Arc::new(Mutex::new(Serves::Status(503)));
    let keys = server(&serves).await;
    let (proxy, _up) = proxy(&keys, "").await;
    let token = issuer.token();
    let answer = get(&proxy, "/", &token).await;
    assert_eq!(statuses(&answer), ["401"]);
    assert!(answer.ends_with("Jwks remote fetch is failed"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_jwt_authn_jwks_fetch_failed").await, 1.0);

    *serves.lock().expect("a lock") = Serves::Nothing;
    let held_up = get(&proxy, "/", &token);
    let others = async {
        for (target, status) in [("/free", "200"), ("/", "401")] {
            assert_eq!(statuses(&get(&proxy, target, "").await), [status], "{target}");
        }
        // Nobody who has no good claims makes us ask.
        let stranger = "authorization: Bearer e30.e30.AAAA\r\n";
        assert_eq!(statuses(&get(&proxy, "/", stranger).await), ["401"]);
    };
    let (answer, ()) = tokio::join!(held_up, others);
    assert!(answer.ends_with("Jwks remote fetch is failed"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_jwt_authn_jwks_fetch_failed").await, 2.0);

    *serves.lock().expect("a lock") = issuer.keys();
    assert_eq!(statuses(&get(&proxy, "/", &token).await), ["200"]);
}

#[tokio::test]
async fn a_failed_fetch_is_tried_again_as_often_as_that_is_wanted() {
    let issuer = Issuer::new("k");
    let serves = Arc::new(Mutex::new(Serves::Status(500)));
    let keys = server(&serves).await;
    let retries =
        "retry_policy: { num_retries: 1000, retry_back_off: { base_interval: 0.01s, max_interval: 0.01s } }";
    let (proxy, _up) = proxy(&keys, retries).await;
    let token = issuer.token();
    let mends = async {
        wait_for_metric(&proxy, "envoy_http_downstream_rq_active", 1.0).await;
        *serves.lock().expect("a lock") = issuer.keys();
    };
    let (answer, ()) = tokio::join!(get(&proxy, "/", &token), mends);
    assert_eq!(statuses(&answer), ["200"]);
    assert_eq!(proxy.metric("envoy_http_jwt_authn_jwks_fetch_failed").await, 0.0);
}

#[tokio::test]
async fn keys_are_fetched_ahead_of_requests_and_old_ones_serve_until_their_time_is_over() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let serves = Arc::new(Mutex::new(old.keys()));
    let keys = server(&serves).await;
    let settings = "cache_duration: 6s, async_fetch: { fast_listener: true, failed_refetch_duration: 0.1s }";
    let (proxy, _up) = proxy(&keys, settings).await;
    wait_for_metric(&proxy, "envoy_http_jwt_authn_jwks_fetch_success", 1.0).await;
    *serves.lock().expect("a lock") = Serves::Status(500);
    wait_for_metric(&proxy, "envoy_http_jwt_authn_jwks_fetch_failed", 1.0).await;
    assert_eq!(statuses(&get(&proxy, "/", &old.token()).await), ["200"]);
    *serves.lock().expect("a lock") = new.keys();
    until(&proxy, &new.token(), "200").await;
    until(&proxy, &old.token(), "401").await;
}
