use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::support::{HeldPort, Proxy, Upstream, bootstrap, raw, read_all, read_request, simple, statuses};

#[tokio::test]
async fn a_request_is_forwarded_and_its_answer_returned() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let answer = raw(proxy.at("http"), "GET /a?b HTTP/1.1\r\nHost: web\r\nX-One: 1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /a?b HTTP/1.1\r\nhost: web\r\nX-One: 1\r\n"), "{answer}");
    for field in [
        "x-forwarded-proto: http\r\n",
        "x-request-id: ",
        "x-envoy-upstream-service-time: ",
        "server: weft\r\n",
        "date: ",
    ] {
        assert!(answer.contains(field), "{field} is not in {answer}");
    }
}

#[tokio::test]
async fn connections_are_used_again_on_both_sides() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::with_threads(&bootstrap(&[upstream.address], "", "", ""), 1).await;
    let one = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    let answer = raw(proxy.at("http"), &one.repeat(5)).await;
    assert_eq!(statuses(&answer), ["200"; 5]);
    raw(proxy.at("http"), one).await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn bodies_of_both_framings_pass_and_are_framed_anew() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let answer =
        raw(proxy.at("http"), "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello").await;
    assert!(answer.contains("content-length: 5\r\n") && answer.ends_with("hello"), "{answer}");
    let chunked = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n02\r\nde\r\n0\r\n\r\n";
    let answer = raw(proxy.at("http"), chunked).await;
    assert!(answer.ends_with("\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_large_body_streams_through_both_ways() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let body = "0123456789abcdef".repeat(256 * 1024);
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    let (mut read, mut write) = stream.split();
    let request = format!(
        "PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let (sent, got) =
        tokio::join!(write.write_all(request.as_bytes()), tokio::io::copy(&mut read, &mut answer));
    sent.expect("sent");
    got.expect("received");
    assert!(answer.ends_with(&body.as_bytes()[body.len() - 1000..]) && answer.len() > body.len());
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop() {
    let upstream = Upstream::canned(
        "HTTP/1.1 200 OK\r\nConnection: x-private, close\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let proxy = simple(&[upstream.address]).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.to_ascii_lowercase();
    assert!(!answer.contains("x-private") && !answer.contains("keep-alive"), "{answer}");

    let echo = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[echo.address], "use_remote_address: true", "", "")).await;
    let request = "GET / HTTP/1.1\r\nHost: web\r\nConnection: x-secret, keep-alive\r\nX-Secret: 1\r\nTE: trailers\r\nProxy-Connection: x\r\n\r\n";
    let answer = raw(proxy.at("http"), request).await;
    assert!(
        !answer.contains("X-Secret") && !answer.contains("TE:") && !answer.contains("Proxy-"),
        "{answer}"
    );
    assert!(answer.contains("x-forwarded-for: 127.0.0.1"), "{answer}");
}

#[tokio::test]
async fn a_body_that_came_with_its_head_leaves_the_connection_open() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::with_threads(&bootstrap(&[upstream.address], "", "", ""), 1).await;
    let one = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello";
    let answer = raw(proxy.at("http"), &one.repeat(3)).await;
    assert_eq!(statuses(&answer), ["200"; 3]);
    assert!(!answer.contains("connection: close"), "{answer}");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn http_1_0_gets_a_body_that_ends_with_the_connection() {
    let upstream =
        Upstream::canned("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await;
    let proxy = simple(&[upstream.address]).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nhello") && !answer.contains("chunked"), "{answer}");
}

#[tokio::test]
async fn head_and_not_modified_have_no_body_and_keep_the_connection() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            let answer = if request.starts_with(b"HEAD") {
                "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
            } else {
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n"
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let proxy = simple(&[upstream.address]).await;
    let requests = "HEAD / HTTP/1.1\r\nHost: w\r\n\r\nGET / HTTP/1.1\r\nHost: w\r\n\r\n";
    let answer = raw(proxy.at("http"), requests).await;
    assert_eq!(statuses(&answer), ["200", "304"]);
    assert_eq!(answer.to_ascii_lowercase().matches("content-length: 100").count(), 2);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn continue_is_sent_only_when_the_body_is_wanted() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    let head = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("writes");
    let interim = read_all(&mut stream).await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").await.expect("writes");
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("\nexpect:"), "{answer}");

    let nobody = simple(&[]).await;
    let answer = raw(nobody.at("http"), head).await;
    assert_eq!(statuses(&answer), ["503"]);
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(statuses(&raw(nobody.at("http"), &head.replace("100-continue", "200-maybe")).await), ["417"]);
}

#[tokio::test]
async fn hints_pass_before_the_answer() {
    let upstream = Upstream::canned(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let proxy = simple(&[upstream.address]).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert_eq!(statuses(&answer), ["103", "200"]);
    assert!(answer.contains("Link: </a.css>"));
}

#[tokio::test]
async fn trailers_pass_but_not_those_that_would_be_headers() {
    let upstream = Upstream::canned(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\nContent-Length: 99\r\n\r\n",
    )
    .await;
    let proxy = simple(&[upstream.address]).await;
    let answer = raw(proxy.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(answer.ends_with("1\r\nx\r\n0\r\nX-Sum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn what_has_no_way_to_go_is_answered_as_envoy_does() {
    let nobody = simple(&[]).await;
    let answer = raw(nobody.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("no healthy upstream"), "{answer}");

    let closed = HeldPort::bind();
    let refused = simple(&[closed.address]).await;
    let answer = raw(refused.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("connection failure"), "{answer}");

    let yaml = bootstrap(&[closed.address], "", "", "").replace("domains: [\"*\"]", "domains: [\"only\"]");
    let unrouted = Proxy::start(&yaml).await;
    let answer =
        raw(unrouted.at("http"), "GET / HTTP/1.1\r\nHost: web\r\n\r\nGET / HTTP/1.1\r\nHost: only\r\n\r\n")
            .await;
    assert_eq!(statuses(&answer), ["404", "503"], "a 404 leaves the connection open");
}

#[tokio::test]
async fn paths_are_forwarded_in_the_form_that_was_routed() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    for (sent, forwarded) in
        [("/a/../b", "/b"), ("/%2e%2e/x", "/x"), ("/a\\..\\c?q=/../", "/c?q=/../"), ("/%41", "/A")]
    {
        let answer = raw(proxy.at("http"), &format!("GET {sent} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        assert!(answer.contains(&format!("GET {forwarded} HTTP/1.1")), "{sent}: {answer}");
    }
    assert_eq!(statuses(&raw(proxy.at("http"), "GET /%00 HTTP/1.1\r\nHost: web\r\n\r\n").await), ["400"]);
}

#[tokio::test]
async fn absolute_targets_replace_the_host() {
    let upstream = Upstream::echo().await;
    let proxy = simple(&[upstream.address]).await;
    let answer = raw(proxy.at("http"), "GET http://other:81/p HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(answer.contains("GET /p HTTP/1.1\r\nhost: other:81\r\n"), "{answer}");
}

#[tokio::test]
async fn one_empty_line_before_a_request_is_overlooked_and_no_more_however_they_arrive() {
    let up = Upstream::echo().await;
    let proxy = Proxy::with_threads(&bootstrap(&[up.address], "", "", ""), 1).await;
    let request = "GET / HTTP/1.1\r\nHost: w\r\n\r\n";
    assert_eq!(statuses(&raw(proxy.at("http"), &format!("\r\n{request}")).await), ["200"]);
    assert_eq!(statuses(&raw(proxy.at("http"), &format!("\r\n\r\n{request}")).await), ["400"]);
    let mut stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    for piece in ["\r\n\r", &format!("\n{request}")] {
        stream.write_all(piece.as_bytes()).await.expect("writes");
        // Once the only thread has answered this, it has seen the piece.
        assert_eq!(statuses(&raw(proxy.at("http"), request).await), ["200"]);
    }
    assert_eq!(statuses(&read_all(&mut stream).await), ["400"]);
}
