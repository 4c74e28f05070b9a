//! What retry policies say beyond the plain conditions, and what a cluster bears of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Proxy, Upstream, bootstrap, raw, read_request, statuses};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";
const GRPC: &str = "POST / HTTP/1.1\r\nHost: w\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Gives `first` as the first answer and 200 from then on; and how many requests came.
async fn failing_once(first: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let upstream = Upstream::scripted(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let answer = if count.fetch_add(1, Ordering::SeqCst) == 0 { first } else { OK };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (upstream, requests)
}

/// The status of `request` and how many requests reached an upstream whose first answer is `first`.
async fn after(first: &'static str, policy: &str, request: &str) -> (String, usize) {
    let (upstream, requests) = failing_once(first).await;
    let route = format!("retry_policy: {{ {policy} }}");
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", &route, "")).await;
    let answer = raw(proxy.at("http"), request).await;
    (statuses(&answer)[0].to_owned(), requests.load(Ordering::SeqCst))
}

#[tokio::test]
async fn grpc_calls_are_repeated_after_the_statuses_that_are_named() {
    let unavailable =
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(after(unavailable, "retry_on: 'cancelled,unavailable'", GRPC).await, ("200".into(), 2));
    assert_eq!(after(unavailable, "retry_on: 'internal,5xx'", GRPC).await, ("200".into(), 1));
}

#[tokio::test]
async fn answers_are_retried_by_their_fields_and_requests_by_theirs() {
    let marked = "HTTP/1.1 200 OK\r\nx-again: yes\r\ncontent-length: 0\r\n\r\n";
    let by_answer =
        "retry_on: retriable-headers, retriable_headers: [{ name: x-again, present_match: true }]";
    assert_eq!(after(marked, by_answer, GET).await, ("200".into(), 2));
    let unavailable = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    let by_request = "retry_on: 5xx, retriable_request_headers: [{ name: x-may, present_match: true }]";
    assert_eq!(after(unavailable, by_request, GET).await, ("503".into(), 1));
    let request = GET.replace("Host", "X-May: yes\r\nHost");
    assert_eq!(after(unavailable, by_request, &request).await, ("200".into(), 2));
}

#[tokio::test]
async fn a_retry_waits_as_long_as_the_upstream_asks() {
    let (upstream, _) =
        failing_once("HTTP/1.1 429 Slow\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n").await;
    let route = "retry_policy: { retry_on: retriable-status-codes, retriable_status_codes: [429], rate_limited_retry_back_off: { reset_headers: [{ name: Retry-After }] } }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", route, "")).await;
    let began = std::time::Instant::now();
    assert_eq!(statuses(&raw(proxy.at("http"), GET).await), ["200"]);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry_backoff_ratelimited").await, 1.0);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry_success").await, 1.0);
}

#[tokio::test]
async fn a_try_that_pauses_too_long_is_given_up_for_another() {
    let silent = Upstream::scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        std::future::pending::<()>().await;
    })
    .await;
    let echo = Upstream::echo().await;
    let route = "retry_policy: { retry_on: 5xx, per_try_idle_timeout: 0.2s }";
    let proxy =
        Proxy::start(&bootstrap(&[silent.address, echo.address], "", route, "lb_policy: ROUND_ROBIN")).await;
    for _ in 0..4 {
        assert_eq!(statuses(&raw(proxy.at("http"), GET).await), ["200"]);
    }
    assert!(proxy.metric("envoy_cluster_upstream_rq_per_try_idle_timeout").await >= 1.0);
}

#[tokio::test]
async fn without_room_for_retries_the_upstreams_own_answer_is_passed_on() {
    let (upstream, _) = failing_once("HTTP/1.1 503 No\r\ncontent-length: 3\r\n\r\nbad").await;
    let cluster = "circuit_breakers: { thresholds: [{ max_retries: 0 }] }";
    let route = "retry_policy: { retry_on: 5xx }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", route, cluster)).await;
    let answer = raw(proxy.at("http"), GET).await;
    assert!(statuses(&answer) == ["503"] && answer.ends_with("bad"), "{answer}");
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry_overflow").await, 1.0);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_retries_keeps_the_upstream_below_1_2_times_what_is_offered() {
    const CLIENTS: usize = 60;
    const EACH: usize = 60;
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    // Everything fails, after a moment of work.
    let upstream = Upstream::scripted(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                let _ = stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    // Hardly any back-off: only the budget holds the retries back.
    let route = "retry_policy: { retry_on: 5xx, num_retries: 5, retry_back_off: { base_interval: 0.001s, max_interval: 0.001s } }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", route, "")).await;
    let address = proxy.at("http");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(async move { raw(address, &"GET / HTTP/1.1\r\nHost: w\r\n\r\n".repeat(EACH)).await })
        })
        .collect();
    for client in clients {
        assert_eq!(statuses(&client.await.expect("a client")), ["503"; EACH]);
    }
    let (offered, borne) = (CLIENTS * EACH, requests.load(Ordering::SeqCst));
    assert!(borne as f64 <= 1.2 * offered as f64, "{borne} requests reached the upstream of {offered}");
    assert!(borne as f64 >= 1.02 * offered as f64, "the budget was not used: {borne} of {offered}");
    assert!(proxy.metric("envoy_cluster_upstream_rq_retry_overflow").await > 0.0);
}
