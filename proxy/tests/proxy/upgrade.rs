use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Proxy, Upstream, bootstrap, raw, read_all, read_request, statuses};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

async fn proxy(upstream: &Upstream) -> Proxy {
    let manager = "upgrade_configs: [{ upgrade_type: websocket }]";
    Proxy::start(&bootstrap(&[upstream.address], manager, "", "")).await
}

#[tokio::test]
async fn after_a_101_bytes_flow_both_ways_until_both_ends_closed() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut buffer = Vec::new();
        let head = read_request(&mut stream, &mut buffer).await.expect("a request");
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        assert!(head.contains("connection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        stream.write_all(answer).await.expect("writes");
        stream.write_all(&buffer).await.expect("writes");
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.write_all(b"bye").await;
    })
    .await;
    let proxy = proxy(&upstream).await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    stream.write_all(UPGRADE.as_bytes()).await.expect("writes");
    let head = read_all(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101") && head.ends_with("hello"), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    stream.write_all(b"ping").await.expect("writes");
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.expect("reads");
    assert_eq!(&echo, b"ping");
    stream.shutdown().await.expect("half-closes");
    assert_eq!(read_all(&mut stream).await, "bye");
}

#[tokio::test]
async fn bytes_after_an_upgrade_request_wait_for_the_101() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            assert!(buffer.is_empty(), "the upstream got more than one request: {buffer:?}");
            let line = String::from_utf8_lossy(&request).lines().next().unwrap_or("").to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
            stream.write_all(answer.as_bytes()).await.expect("writes");
        }
    })
    .await;
    let proxy = proxy(&upstream).await;
    // No 101 comes: what follows is the next request.
    let answer = raw(proxy.at("http"), &format!("{UPGRADE}GET /next HTTP/1.1\r\nHost: web\r\n\r\n")).await;
    assert_eq!(statuses(&answer), ["200", "200"]);
    assert!(answer.contains("GET /chat HTTP/1.1") && answer.ends_with("GET /next HTTP/1.1"), "{answer}");
}

#[tokio::test]
async fn upgrades_that_are_not_configured_are_refused_and_h2c_is_ignored() {
    let upstream = Upstream::echo().await;
    let proxy = proxy(&upstream).await;
    assert_eq!(statuses(&raw(proxy.at("http"), &UPGRADE.replace("websocket", "other")).await), ["403"]);
    let h2c = "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let answer = raw(proxy.at("http"), h2c).await;
    assert_eq!(statuses(&answer), ["200"]);
    assert!(!answer.to_ascii_lowercase().contains("h2c") && !answer.contains("HTTP2-Settings"), "{answer}");
}
