use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{Proxy, Upstream, bootstrap, closes, raw, read_all, read_request, statuses};

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_is_a_504() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "timeout: 0.3s", "")).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert!(statuses(&answer) == ["504"] && answer.ends_with("upstream request timeout"), "{answer}");
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_timeout").await, 1.0);
}

#[tokio::test]
async fn clients_that_are_stuck_are_let_go() {
    let upstream = Upstream::echo().await;
    let manager = "request_headers_timeout: 0.3s\nstream_idle_timeout: 0.3s\ncommon_http_protocol_options: { idle_timeout: 0.3s }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], manager, "", "")).await;
    let began = Instant::now();
    // In the head: an answer, and the end.
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\nX: ").await.expect("writes");
    let answer = read_all(&mut stream).await;
    assert_eq!(statuses(&answer), ["408"], "{answer}");
    assert!(closes(&mut stream).await);
    // Between requests, and before the first: just the end.
    let mut idle = TcpStream::connect(proxy.at("http")).await.expect("connects");
    assert!(closes(&mut idle).await);
    // In the body.
    let mut slow = TcpStream::connect(proxy.at("http")).await.expect("connects");
    slow.write_all(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 10\r\n\r\nabc").await.expect("writes");
    let answer = read_all(&mut slow).await;
    assert_eq!(statuses(&answer), ["408"], "{answer}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// Takes requests and never answers.
async fn silent() -> Upstream {
    Upstream::scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        std::future::pending::<()>().await;
    })
    .await
}

#[tokio::test]
async fn a_stream_that_takes_too_long_is_a_408_whatever_the_timeout_says() {
    let upstream = silent().await;
    let manager = "common_http_protocol_options: { max_stream_duration: 0.3s }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], manager, "timeout: 0s", "")).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert!(statuses(&answer) == ["408"] && answer.ends_with("downstream duration timeout"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_downstream_rq_max_duration_reached").await, 1.0);
    // The route's word goes before the manager's.
    let route = "timeout: 0.6s\nmax_stream_duration: { max_stream_duration: 0s }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], manager, route, "")).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["504"], "{answer}");
}

#[tokio::test]
async fn a_request_that_does_not_come_to_its_end_is_a_408() {
    let upstream = silent().await;
    let manager = "request_timeout: 0.3s";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], manager, "", "")).await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    stream.write_all(b"POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 9\r\n\r\nhalf").await.expect("writes");
    let answer = read_all(&mut stream).await;
    assert!(statuses(&answer) == ["408"] && answer.ends_with("request timeout"), "{answer}");
    assert_eq!(proxy.metric("envoy_http_downstream_rq_timeout").await, 1.0);
}

const CALL: &str = "POST / HTTP/1.1\r\nHost: w\r\nContent-Type: application/grpc\r\nGrpc-Timeout: 300m\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn what_a_grpc_client_will_wait_is_the_limit_where_the_route_takes_it() {
    let upstream = silent().await;
    let route = "max_stream_duration: { grpc_timeout_header_max: 10s }";
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", route, "")).await;
    let answer = raw(proxy.at("http"), CALL).await;
    assert!(answer.contains("grpc-status: 4\r\n"), "{answer}");
}

#[tokio::test]
async fn upstreams_are_told_how_long_they_have() {
    fn number(request: &str, name: &str) -> u64 {
        let rest = request.split_once(name).unwrap_or_else(|| panic!("no {name} in {request}")).1;
        rest.trim_start_matches(": ")
            .split(['\r', 'm'])
            .next()
            .and_then(|text| text.parse().ok())
            .expect("a number")
    }
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "timeout: 5s", "")).await;
    let answer = raw(proxy.at("http"), CALL).await;
    assert!((4_000..=5_000).contains(&number(&answer, "x-envoy-expected-rq-timeout-ms")), "{answer}");
    assert!((1..=300).contains(&number(&answer, "grpc-timeout")), "{answer}");
    // Shortened to what we will wait ourselves.
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "timeout: 0.2s", "")).await;
    let answer = raw(proxy.at("http"), CALL).await;
    assert!((1..=200).contains(&number(&answer, "grpc-timeout")), "{answer}");
    // Nobody is told what was not asked for, or what there is not.
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "timeout: 0s", "")).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").await;
    assert!(!answer.contains("timeout"), "{answer}");
}
