//! Every class of HARDENING that could make two readers see different messages.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Upstream, raw, read_request, simple, statuses};

#[tokio::test]
async fn ambiguous_requests_are_refused_and_the_connection_ends() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: web\r\n\r\n";
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 4 4\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length:\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: a\nTransfer-Encoding: chunked\r\n",
        "X: a\rTransfer-Encoding: chunked\r\n",
        "X: a\0b\r\n",
        "Host: other\r\n",
        "Host: web\r\n",
        "X(): a\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Connection: close, X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6\r\n",
        "Connection: host\r\n",
        "Connection: :path\r\n",
        "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 4\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: web\r\n{head}\r\n0\r\n\r\n{smuggled}");
        let answer = raw(proxy.at("http"), &request).await;
        assert_eq!(statuses(&answer), ["400"], "{head:?}: {answer}");
        assert!(answer.contains("connection: close"), "{head:?}: {answer}");
    }
    assert_eq!(upstream.connections(), 0, "nothing of these reaches an upstream");
}

#[tokio::test]
async fn bad_request_lines_have_their_own_answers() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    for (line, status) in [
        ("GET / HTTP/2.0", "505"),
        ("GET / HTTP/1.2", "505"),
        ("GET /#a HTTP/1.1", "400"),
        ("GET /a b HTTP/1.1", "400"),
        ("CONNECT web:443 HTTP/1.1", "405"),
        ("GET", "400"),
        ("GE(T / HTTP/1.1", "400"),
        ("get / HTTP/1.1", "400"),
        ("Head / HTTP/1.1", "400"),
        ("GET http://web:port/ HTTP/1.1", "400"),
        ("GET http://web:80:80/ HTTP/1.1", "400"),
    ] {
        let answer = raw(proxy.at("http"), &format!("{line}\r\nHost: web\r\n\r\n")).await;
        assert_eq!(statuses(&answer), [status], "{line:?}: {answer}");
    }
    assert_eq!(statuses(&raw(proxy.at("http"), "GET / HTTP/1.1\r\n\r\n").await), ["400"]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: web\r\n\r\n", "a".repeat(70_000));
    assert_eq!(statuses(&raw(proxy.at("http"), &long).await), ["414"]);
    let large = format!("GET / HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    assert_eq!(statuses(&raw(proxy.at("http"), &large).await), ["431"]);
    let many = format!("GET / HTTP/1.1\r\nHost: web\r\n{}\r\n", "x: y\r\n".repeat(101));
    assert_eq!(statuses(&raw(proxy.at("http"), &many).await), ["431"]);
}

#[tokio::test]
async fn broken_chunks_never_become_a_complete_message() {
    let complete = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&complete);
    let upstream = Upstream::scripted(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            if read_request(&mut stream, &mut Vec::new()).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let proxy = simple(&[upstream.address]).await;
    for body in [
        "3\r\nabc\r\n0x0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nbad trailer\r\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let answer = raw(proxy.at("http"), &request).await;
        assert!(matches!(statuses(&answer).as_slice(), ["400"] | []), "{body:?}: {answer}");
    }
    // Cut off in the middle, with either framing.
    for request in [
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ] {
        let mut stream = tokio::net::TcpStream::connect(proxy.at("http")).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("writes");
        drop(stream);
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(complete.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_hostile_upstream_gives_a_502_and_loses_its_connection() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9\r\n\r\n",
        "HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 1000 Odd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let upstream = Upstream::canned(answer).await;
        let proxy = simple(&[upstream.address]).await;
        let got = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
        assert_eq!(statuses(&got), ["502"], "{answer:?}: {got}");
    }
    let flood = Box::leak("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100).into_boxed_str());
    let upstream = Upstream::canned(flood).await;
    let proxy = simple(&[upstream.address]).await;
    let got = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(!statuses(&got).contains(&"200") && statuses(&got).len() <= 18, "{got}");
}

#[tokio::test]
async fn extra_bytes_after_an_answer_poison_no_pool() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            let poison = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
            let _ = stream.write_all(poison.as_bytes()).await;
        }
    })
    .await;
    let proxy = simple(&[upstream.address]).await;
    for _ in 0..3 {
        let answer =
            raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\nGET / HTTP/1.1\r\nHost: web\r\n\r\n")
                .await;
        assert_eq!(statuses(&answer), ["200", "200"]);
        assert!(!answer.contains("poison"), "{answer}");
    }
    assert_eq!(upstream.connections(), 6, "no connection is used twice");
}
