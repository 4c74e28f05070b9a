use tokio::io::AsyncWriteExt as _;

use crate::support::{Proxy, Upstream, bootstrap, raw, read_request, statuses};

/// Leads `/first` to `/second`, and answers the rest with the request as it came.
async fn leading(status: u16) -> Upstream {
    Upstream::scripted(move |mut stream, _| async move {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            let (line, body) = if request.windows(7).any(|part| part == b" /first") {
                (
                    format!("HTTP/1.1 {status} Go\r\nlocation: http://w/second\r\ncontent-length: 5\r\n\r\n"),
                    b"there".to_vec(),
                )
            } else {
                (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len()), request)
            };
            if stream.write_all(&[line.as_bytes(), &body].concat()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_redirect_is_followed_with_its_body_on_the_same_connection() {
    let up = leading(307).await;
    let route = "internal_redirect_policy: { redirect_response_codes: [307] }";
    let proxy = Proxy::with_threads(&bootstrap(&[up.address], "", route, ""), 1).await;
    let request = "POST /first HTTP/1.1\r\nHost: w\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
    let answer = raw(proxy.at("http"), request).await;
    assert_eq!(statuses(&answer), ["200"], "{answer}");
    assert!(answer.contains("POST /second HTTP/1.1\r\n") && answer.ends_with("body"), "{answer}");
    assert!(answer.contains("x-envoy-original-url: http://w/first\r\n"), "{answer}");
    assert_eq!(up.connections(), 1);
    assert_eq!(proxy.metric("envoy_cluster_upstream_internal_redirect_succeeded_total").await, 1.0);
    assert_eq!(proxy.metric("envoy_http_downstream_rq_total").await, 1.0);
}

#[tokio::test]
async fn a_redirect_of_what_cannot_be_sent_again_is_the_clients() {
    let up = leading(302).await;
    let route = "internal_redirect_policy: {}";
    let proxy = Proxy::start(&bootstrap(&[up.address], "", route, "")).await;
    let request = "POST /first HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let answer = raw(proxy.at("http"), request).await;
    assert_eq!(statuses(&answer), ["302"], "{answer}");
    assert!(answer.ends_with("there"), "{answer}");
    assert_eq!(proxy.metric("envoy_cluster_upstream_internal_redirect_failed_total").await, 1.0);
}

#[tokio::test]
async fn filters_see_where_a_redirect_leads() {
    let up = leading(302).await;
    let plain = bootstrap(&[up.address], "", "internal_redirect_policy: {}", "");
    let rbac = r#"http_filters:
                  - name: rbac
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
                      rules: { action: DENY, policies: { second: { permissions: [{ url_path: { path: { exact: /second } } }], principals: [{ any: true }] } } }"#;
    let proxy = Proxy::start(&plain.replace("http_filters:", rbac)).await;
    let request = "GET /first HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&raw(proxy.at("http"), request).await), ["403"]);
}
