use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::io::AsyncWriteExt as _;

use crate::support::{HeldPort, Proxy, Upstream, bootstrap, raw, read_request, simple, statuses};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nbad";

#[tokio::test]
async fn a_connection_that_fails_is_tried_elsewhere_even_for_a_post() {
    let upstream = Upstream::echo().await;
    let route = "retry_policy: { retry_on: connect-failure, num_retries: 2 }";
    let closed = HeldPort::bind();
    let proxy =
        Proxy::start(&bootstrap(&[closed.address, upstream.address], "", route, "lb_policy: ROUND_ROBIN"))
            .await;
    for _ in 0..8 {
        let answer = raw(
            proxy.at("http"),
            "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
        )
        .await;
        assert_eq!(statuses(&answer), ["200"], "{answer}");
        assert!(answer.ends_with("hi"), "{answer}");
    }
    assert!(proxy.metric("envoy_cluster_upstream_rq_retry").await >= 1.0);
    assert!(proxy.metric("envoy_cluster_upstream_cx_connect_fail").await >= 1.0);
}

#[tokio::test]
async fn bad_statuses_are_retried_for_idempotent_requests_only_and_passed_on_in_the_end() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            let _ = stream.write_all(UNAVAILABLE).await;
        }
    })
    .await;
    let route = "retry_policy: { retry_on: 5xx, num_retries: 2 }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", route, "")).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["503"]);
    assert!(answer.ends_with("bad"), "the last answer is the upstream's own: {answer}");
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_total").await, 3.0);
    let answer = raw(proxy.at("http"), "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["503"]);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_total").await, 4.0);
}

#[tokio::test]
async fn a_kept_connection_that_the_upstream_just_closed_is_no_error() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    // Answers once on each connection and closes it when the next request comes, as a server at its idle timeout.
    let upstream = Upstream::scripted(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            let mut buffer = Vec::new();
            if read_request(&mut stream, &mut buffer).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(OK).await;
            }
            let _ = read_request(&mut stream, &mut buffer).await;
        }
    })
    .await;
    let proxy = Proxy::with_threads(&bootstrap(&[upstream.address], "", "", ""), 1).await;
    for _ in 0..4 {
        assert_eq!(statuses(&raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await), ["200"]);
    }
    // A POST that was written to such a connection may have been acted on: it is not sent twice.
    let answer = raw(proxy.at("http"), "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(statuses(&answer), ["503"], "{answer}");
    assert_eq!(requests.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_reset_before_the_answer_is_not_retried_without_a_policy() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
    })
    .await;
    let proxy = simple(&[upstream.address]).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert!(statuses(&answer) == ["503"] && answer.contains("connection termination"), "{answer}");
    assert_eq!(upstream.connections(), 1);
}
