//! CONNECT, where it is configured.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{HeldPort, Proxy, Upstream, bootstrap, raw, read_request, statuses};

const CONNECT: &str = "upgrade_configs: [{ upgrade_type: CONNECT }]";
const TERMINATE: &str = "upgrade_configs: [{ upgrade_type: CONNECT, connect_config: {} }]";

/// A proxy whose route for CONNECT has these settings, beside one for all other requests.
async fn proxy(upstream: &Upstream, manager: &str, route: &str) -> Proxy {
    let yaml = bootstrap(&[upstream.address], manager, "", "");
    let plain = "                        - match: { prefix: / }\n";
    let connect = format!(
        "                        - match: {{ connect_matcher: {{}} }}\n                          route: {{ cluster: up{}{route} }}\n",
        if route.is_empty() { "" } else { ", " }
    );
    Proxy::start(&yaml.replacen(plain, &format!("{connect}{plain}"), 1)).await
}

#[tokio::test]
async fn where_it_ends_the_endpoint_gets_what_is_inside() {
    let up = Upstream::scripted(|mut stream, _| async move {
        let mut got = Vec::new();
        while got.len() < 5 && stream.read_buf(&mut got).await.is_ok_and(|count| count > 0) {}
        let _ = stream.write_all(&[b"got ", &got[..]].concat()).await;
    })
    .await;
    // Enabled by the route alone, and by both.
    for manager in ["", CONNECT] {
        let proxy = proxy(&up, manager, TERMINATE).await;
        let answer = raw(proxy.at("http"), "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nhello").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\ngot hello"),
            "{answer}"
        );
        let head = answer.to_ascii_lowercase();
        for field in ["content-length", "transfer-encoding", "connection", "upgrade"] {
            assert!(!head.contains(&format!("\r\n{field}:")), "{answer}");
        }
        let answer =
            raw(proxy.at("http"), "CONNECT db:5432 HTTP/1.1\r\nHost: db\r\nContent-Length: 5\r\n\r\nhello")
                .await;
        assert_eq!(statuses(&answer), ["400"], "what follows is the tunnel's, so there can be no body");
        assert_eq!(proxy.metric("envoy_http_downstream_cx_upgrades_total").await, 1.0);
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_a_503_and_not_a_tunnel() {
    let up = Upstream::echo().await;
    let mut gone = Upstream::echo().await;
    let unused = HeldPort::bind();
    gone.address = unused.address;
    let proxy = proxy(&gone, CONNECT, TERMINATE).await;
    let answer = raw(
        proxy.at("http"),
        &format!(
            "CONNECT db:5432 HTTP/1.1\r\nHost: db\r\n\r\nGET http://{}/ HTTP/1.1\r\nHost: a\r\n\r\n",
            up.address
        ),
    )
    .await;
    assert_eq!(statuses(&answer), ["503"], "what follows a CONNECT is never taken for a request: {answer}");
}

#[tokio::test]
async fn where_it_is_passed_on_the_endpoint_decides() {
    let up = Upstream::scripted(|mut stream, _| async move {
        let Some(request) = read_request(&mut stream, &mut Vec::new()).await else { return };
        let request = String::from_utf8_lossy(&request).into_owned();
        // A length that is to be ignored.
        let answer = match request.starts_with("CONNECT web:443 HTTP/1.1\r\nhost: web:443\r\n") {
            true => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ninside",
            false => "HTTP/1.1 403 No\r\ncontent-length: 3\r\n\r\nno!",
        };
        let _ = stream.write_all(answer.as_bytes()).await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let proxy = proxy(&up, CONNECT, "").await;
    let answer = raw(proxy.at("http"), "CONNECT web:443 HTTP/1.1\r\nHost: other\r\n\r\nhello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\ninsidehello"), "{answer}");
    let answer = raw(proxy.at("http"), "CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\nhello").await;
    assert!(answer.starts_with("HTTP/1.1 403 No\r\n") && answer.ends_with("\r\n\r\nno!"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn routes_for_paths_are_not_for_it_and_it_may_be_switched_off() {
    let up = Upstream::echo().await;
    let request = "CONNECT web:443 HTTP/1.1\r\nHost: web:443\r\n\r\n";
    let without = Proxy::start(&bootstrap(&[up.address], CONNECT, "", "")).await;
    assert_eq!(statuses(&raw(without.at("http"), request).await), ["405"]);
    let off = "upgrade_configs: [{ upgrade_type: CONNECT, enabled: false }]";
    let off = proxy(&up, CONNECT, off).await;
    assert_eq!(statuses(&raw(off.at("http"), request).await), ["403"]);
    assert_eq!(statuses(&raw(off.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await), ["200"]);
    assert_eq!(up.connections(), 1);
}
