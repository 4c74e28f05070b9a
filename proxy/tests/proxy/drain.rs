use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{Proxy, Upstream, bootstrap, closes, read_all, read_request, statuses};

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
