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
