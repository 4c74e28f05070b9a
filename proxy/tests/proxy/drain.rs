use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use weft_proxy::server::{DrainPlan, DrainStrategy, Options};

use crate::support::{Process, Proxy, Upstream, bootstrap, closes, raw, read_all, read_request, statuses};

#[tokio::test]
async fn what_is_in_flight_is_finished_and_nothing_new_is_taken() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").await;
    })
    .await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    let address = proxy.at("http");
    let mut busy = TcpStream::connect(address).await.expect("connects");
    busy.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
    let mut idle = TcpStream::connect(address).await.expect("connects");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let drained = tokio::spawn(proxy.server.drain());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    let answer = read_all(&mut busy).await;
    assert_eq!(statuses(&answer), ["200"]);
    assert!(answer.contains("connection: close") && answer.ends_with("slow"), "{answer}");
    drop(busy);
    assert!(closes(&mut idle).await, "an idle connection is closed after a moment");
    drained.await.expect("drains");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// Answers after `wait`.
async fn slow(wait: Duration) -> Upstream {
    Upstream::scripted(move |mut stream, _| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        tokio::time::sleep(wait).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow").await;
    })
    .await
}

fn options(time: Duration, strategy: DrainStrategy) -> Options {
    Options { concurrency: 2, drain: DrainPlan { time, strategy }, ..Options::default() }
}

/// Waits until the proxy has this many connections of clients.
async fn until_connected(proxy: &Proxy, count: f64) {
    while proxy.metric("envoy_listener_downstream_cx_active").await < count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether this is a head with all of the body that its content-length declares.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

#[tokio::test]
async fn under_load_every_request_that_was_sent_is_answered() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    let address = proxy.at("http");
    let clients: Vec<_> = (0..16)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("connects");
                let mut answered = 0;
                loop {
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n")
                        .await
                        .expect("the request goes out");
                    let mut answer = Vec::new();
                    while !is_whole(&answer) {
                        let count = stream.read_buf(&mut answer).await.expect("no reset");
                        assert!(count > 0, "closed without an answer to request {answered}");
                    }
                    let answer = String::from_utf8_lossy(&answer);
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    answered += 1;
                    if answer.contains("connection: close\r\n") {
                        return answered;
                    }
                }
            })
        })
        .collect();
    until_connected(&proxy, 16.0).await;
    tokio::time::timeout(Duration::from_secs(4), proxy.server.drain()).await.expect("nobody holds it up");
    for client in clients {
        assert!(client.await.expect("every request is answered") > 0);
    }
}

#[tokio::test]
async fn what_waited_to_be_accepted_is_served() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    let address = proxy.at("http");
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
        clients.push(stream);
    }
    let drained = tokio::spawn(proxy.server.drain());
    for mut client in clients {
        assert_eq!(statuses(&read_all(&mut client).await), ["200"]);
    }
    drained.await.expect("drains");
}

#[tokio::test]
async fn the_deadline_ends_what_does_not_end_by_itself() {
    let upstream = slow(Duration::from_secs(60)).await;
    let options = options(Duration::from_millis(700), DrainStrategy::Immediate);
    let proxy = Proxy::with_options(&bootstrap(&[upstream.address], "", "", ""), options).await;
    let mut busy = TcpStream::connect(proxy.at("http")).await.expect("connects");
    busy.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
    until_connected(&proxy, 1.0).await;
    let began = Instant::now();
    proxy.server.drain().await;
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(closes(&mut busy).await);
}

#[tokio::test]
async fn over_admin_a_drain_says_so_and_keeps_accepting_until_its_time_is_over() {
    let upstream = Upstream::echo().await;
    let options = options(Duration::from_secs(2), DrainStrategy::Immediate);
    let proxy = Proxy::with_options(&bootstrap(&[upstream.address], "", "", ""), options).await;
    let address = proxy.at("http");
    let mut before = TcpStream::connect(address).await.expect("connects");
    assert_eq!(proxy.admin("POST", "/drain_listeners?graceful").await, "OK\n");
    let ready = raw(
        proxy.server.admin_address().expect("an address"),
        "GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("DRAINING\n"), "{ready}");
    before.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
    assert!(read_all(&mut before).await.contains("connection: close\r\n"), "clients are told to go");
    let late = raw(address, "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert_eq!(statuses(&late), ["200"], "who comes late is served still");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "the socket is never closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_gradual_drain_tells_clients_one_after_the_other() {
    let upstream = Upstream::echo().await;
    let options = options(Duration::from_secs(600), DrainStrategy::Gradual);
    let proxy = Proxy::with_options(&bootstrap(&[upstream.address], "", "", ""), options).await;
    assert_eq!(proxy.admin("POST", "/drain_listeners?graceful&skip_exit").await, "OK\n");
    let mut told = 0;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
        let mut answer = vec![0; 1024];
        let count = stream.read(&mut answer).await.expect("an answer");
        told += usize::from(String::from_utf8_lossy(&answer[..count]).contains("connection: close\r\n"));
    }
    assert!(told <= 2, "{told} of 10 were told to go at the very beginning");
}

#[tokio::test]
async fn only_inbound_listeners_drain_when_only_they_are_meant() {
    let upstream = Upstream::echo().await;
    let both = bootstrap(&[upstream.address], "", "", "");
    let (head, rest) = both.split_once("  listeners:\n").expect("listeners");
    let (listener, clusters) = rest.split_once("  clusters:\n").expect("clusters");
    let inbound = listener.replace("- name: http", "- name: in\n      traffic_direction: INBOUND");
    let proxy =
        Proxy::start(&format!("{head}  listeners:\n{listener}{inbound}  clusters:\n{clusters}")).await;
    let (http, inbound) = (proxy.at("http"), proxy.at("in"));
    assert_eq!(proxy.admin("POST", "/drain_listeners?inboundonly").await, "OK\n");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(inbound).await.is_ok() {
        assert!(Instant::now() < deadline, "the inbound socket is never closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = raw(http, "GET / HTTP/1.1\r\nHost: w\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["200"]);
    assert!(!answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn the_program_drains_on_the_first_signal_and_ends_at_once_on_the_second() {
    let upstream = slow(Duration::from_secs(60)).await;
    let config = bootstrap(&[upstream.address], "", "", "");
    let mut idle = Process::start(&config, &[]).await;
    idle.signal(Signal::SIGTERM);
    assert_eq!(idle.ended().await, Some(0), "with nothing to wait for it ends");
    let mut busy = Process::start(&config, &[]).await;
    let mut stream = TcpStream::connect(busy.listener().await).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n").await.expect("writes");
    while upstream.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    busy.signal(Signal::SIGTERM);
    let ready = "GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    while !raw(busy.admin, ready).await.ends_with("DRAINING\n") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    busy.signal(Signal::SIGTERM);
    assert_eq!(busy.ended().await, Some(0));
    assert!(closes(&mut stream).await);
}
