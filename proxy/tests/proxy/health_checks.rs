//! What is asked of endpoints, and what is made of the answers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::support::{Proxy, Upstream, bootstrap, read_request, wait_for_metric};

const HEALTHY: &str = "envoy_cluster_membership_healthy";

/// A `grpc.health.v1` server that answers for the service `db` with what is in `state`.
async fn grpc_server(state: &Arc<AtomicU8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let state = Arc::clone(state);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let state = Arc::clone(&state);
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let asked = body.data().await.expect("a message").expect("readable");
                        assert_eq!(&asked[..], b"\0\0\0\0\x04\x0a\x02db");
                        let answer = Response::builder().header("content-type", "application/grpc");
                        let Ok(mut stream) = respond.send_response(answer.body(()).expect("valid"), false)
                        else {
                            return;
                        };
                        let message = vec![0, 0, 0, 0, 2, 0x08, state.load(Ordering::SeqCst)];
                        let _ = stream.send_data(Bytes::from(message), false);
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().expect("valid"));
                        let _ = stream.send_trailers(trailers);
                    });
                }
            });
        }
    });
    address
}

/// Waits for two more checks; the first of them is answered then.
async fn asked_again(upstream: &Upstream) {
    let before = upstream.connections();
    for _ in 0..500 {
        if upstream.connections() >= before + 2 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no more checks came");
}

#[tokio::test]
async fn a_grpc_service_that_says_it_is_not_serving_is_out_at_once() {
    let state = Arc::new(AtomicU8::new(1));
    let server = grpc_server(&state).await;
    // With the threshold alone it would take an hour.
    let check = "health_checks: [{ timeout: 1s, interval: 0.05s, unhealthy_threshold: 72000, healthy_threshold: 2, grpc_health_check: { service_name: db } }]";
    let proxy = Proxy::start(&bootstrap(&[server], "", "", check)).await;
    wait_for_metric(&proxy, HEALTHY, 1.0).await;
    state.store(2, Ordering::SeqCst);
    wait_for_metric(&proxy, HEALTHY, 0.0).await;
    state.store(1, Ordering::SeqCst);
    wait_for_metric(&proxy, HEALTHY, 1.0).await;
}

#[tokio::test]
async fn statuses_are_expected_retriable_or_final() {
    let status = Arc::new(AtomicU16::new(204));
    let current = Arc::clone(&status);
    let upstream = Upstream::scripted(move |mut stream, _| {
        let current = Arc::clone(&current);
        async move {
            let _ = read_request(&mut stream, &mut Vec::new()).await;
            let answer =
                format!("HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n", current.load(Ordering::SeqCst));
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let check = "health_checks: [{ timeout: 1s, interval: 0.02s, interval_jitter_percent: 50, unhealthy_interval: 0.05s, unhealthy_threshold: 20, healthy_threshold: 1, http_health_check: { path: /, expected_statuses: [{ start: 200, end: 300 }], retriable_statuses: [{ start: 503, end: 504 }] } }]";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", check)).await;
    // The very first answer would count at once.
    asked_again(&upstream).await;
    // A retriable one needs as many checks as the threshold says.
    let asked = upstream.connections();
    status.store(503, Ordering::SeqCst);
    wait_for_metric(&proxy, HEALTHY, 0.0).await;
    // One may have been under way.
    assert!(upstream.connections() - asked >= 19);
    status.store(200, Ordering::SeqCst);
    wait_for_metric(&proxy, HEALTHY, 1.0).await;
    // Any other is final; with the threshold alone it would take an hour.
    drop(proxy);
    let check = check.replace("unhealthy_threshold: 20", "unhealthy_threshold: 180000");
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", &check)).await;
    asked_again(&upstream).await;
    assert_eq!(proxy.metric(HEALTHY).await, 1.0);
    status.store(500, Ordering::SeqCst);
    wait_for_metric(&proxy, HEALTHY, 0.0).await;
}

#[tokio::test]
async fn checks_are_logged_and_an_endpoint_is_unfit_until_its_first_one_passed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events");
    let status = Arc::new(AtomicU16::new(500));
    let upstream = {
        let status = Arc::clone(&status);
        Upstream::scripted(move |mut stream, _| {
            let status = Arc::clone(&status);
            async move {
                let _ = read_request(&mut stream, &mut Vec::new()).await;
                let status = status.load(Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await
    };
    let check = format!(
        "health_checks: [{{ timeout: 5s, interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {{ path: /h }}, event_logger: [{{ name: f, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink, event_log_path: {} }} }}] }}]\ncommon_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}",
        path.display()
    );
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", &check)).await;
    let get =
        || crate::support::raw(proxy.at("http"), "GET / HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n");
    assert!(get().await.starts_with("HTTP/1.1 503"), "nothing good was heard of it yet");
    asked_again(&upstream).await;
    status.store(200, Ordering::SeqCst);
    wait_for_metric(&proxy, HEALTHY, 1.0).await;
    assert!(get().await.starts_with("HTTP/1.1 200"));
    status.store(500, Ordering::SeqCst);
    wait_for_metric(&proxy, HEALTHY, 0.0).await;
    proxy.server.stop().await;
    let log = std::fs::read_to_string(&path).expect("a log");
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(events.len() == 3, "{log}");
    assert_eq!(
        events[0]["health_check_failure_event"],
        serde_json::json!({ "failure_type": "ACTIVE", "first_check": true })
    );
    assert_eq!(events[1]["add_healthy_event"], serde_json::json!({ "first_check": false }));
    assert_eq!(events[2]["eject_unhealthy_event"], serde_json::json!({ "failure_type": "ACTIVE" }));
    assert!(
        events.iter().all(|event| event["cluster_name"] == "up" && event["health_checker_type"] == "HTTP")
    );
}
