//! Tries that take too long and go on, with another one beside them.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::support::{Proxy, Upstream, bootstrap, raw, read_request, statuses, wait_for_metric};

const GET: &str = "GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n";

/// Something happened, as often as it has permits.
type Signal = Arc<Semaphore>;

fn signal() -> Signal {
    Arc::new(Semaphore::new(0))
}

async fn wait(signal: &Signal) {
    signal.acquire().await.expect("open").forget();
}

fn hedging(more: &str) -> String {
    format!(
        "timeout: 15s\nretry_policy: {{ retry_on: 5xx, per_try_timeout: 0.1s{more} }}\nhedge_policy: {{ hedge_on_per_try_timeout: true }}"
    )
}

/// Two endpoints whose requests `handle` gets, with how many came to either before.
async fn pair<F>(
    handle: impl Fn(TcpStream, usize) -> F + Clone + Send + 'static,
) -> ([Upstream; 2], Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let requests = Arc::new(AtomicUsize::new(0));
    let upstream = || {
        let (count, handle) = (Arc::clone(&requests), handle.clone());
        Upstream::scripted(move |mut stream, _| {
            let (count, handle) = (Arc::clone(&count), handle.clone());
            async move {
                if read_request(&mut stream, &mut Vec::new()).await.is_some() {
                    handle(stream, count.fetch_add(1, Ordering::SeqCst)).await;
                }
            }
        })
    };
    let upstreams = [upstream().await, upstream().await];
    (upstreams, requests)
}

async fn start(upstreams: &[Upstream; 2], route: &str, cluster: &str) -> Proxy {
    let addresses = [upstreams[0].address, upstreams[1].address];
    let cluster = format!("lb_policy: ROUND_ROBIN\n{cluster}");
    Proxy::with_threads(&bootstrap(&addresses, "", route, &cluster), 1).await
}

/// Waits until the proxy closes the connection.
async fn cancelled(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
}

async fn say(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_overtaken_by_another_and_cancelled() {
    let closed = signal();
    let told = Arc::clone(&closed);
    let (upstreams, requests) = pair(move |mut stream, number| {
        let told = Arc::clone(&told);
        async move {
            if number.is_multiple_of(2) {
                cancelled(&mut stream).await;
                told.add_permits(1);
            } else {
                say(&mut stream, "200", "second").await;
            }
        }
    })
    .await;
    // More than once, with room for one retry at a time: what a try took is given back.
    let limits =
        "circuit_breakers: { thresholds: [{ max_requests: 1, max_retries: 1, max_connections: 2 }] }";
    let proxy = start(&upstreams, &hedging(""), limits).await;
    for _ in 0..3 {
        let answer = raw(proxy.at("http"), GET).await;
        assert!(statuses(&answer) == ["200"] && answer.ends_with("second"), "{answer}");
        wait(&closed).await;
    }
    assert_eq!(requests.load(Ordering::SeqCst), 6);
    assert!(upstreams.iter().all(|upstream| upstream.connections() == 3), "never the same one twice");
    for (name, value) in [("rq_total", 6.0), ("rq_retry", 3.0), ("rq_retry_success", 3.0)] {
        assert_eq!(proxy.metric(&format!("envoy_cluster_upstream_{name}")).await, value, "{name}");
    }
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_cancelled").await, 3.0);
    // As in Envoy: nothing was given up.
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_per_try_timeout").await, 0.0);
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 0.0).await;
}

#[tokio::test]
async fn a_quick_answer_needs_one_try_and_its_connection_is_kept() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::with_threads(&bootstrap(&[upstream.address], "", &hedging(""), ""), 1).await;
    let put = GET.replace("GET", "PUT").replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello");
    for _ in 0..3 {
        assert_eq!(statuses(&raw(proxy.at("http"), GET).await), ["200"]);
        let answer = raw(proxy.at("http"), &put).await;
        assert!(statuses(&answer) == ["200"] && answer.ends_with("hello"), "{answer}");
        assert_eq!(statuses(&raw(proxy.at("http"), &GET.replace("GET", "DELETE")).await), ["200"]);
    }
    assert_eq!(upstream.connections(), 1);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_total").await, 9.0);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry").await, 0.0);
}

#[tokio::test]
async fn the_first_try_may_still_win() {
    let (came, closed) = (signal(), signal());
    let told = (Arc::clone(&came), Arc::clone(&closed));
    let (upstreams, _) = pair(move |mut stream, number| {
        let (came, closed) = told.clone();
        async move {
            if number == 0 {
                wait(&came).await;
                say(&mut stream, "200", "first").await;
            } else {
                came.add_permits(1);
                cancelled(&mut stream).await;
                closed.add_permits(1);
            }
        }
    })
    .await;
    // What the virtual host says holds for routes that say nothing.
    let policy = "hedge_policy: { hedge_on_per_try_timeout: true }";
    let domains = r#"domains: ["*"]"#;
    let addresses = [upstreams[0].address, upstreams[1].address];
    let text = bootstrap(&addresses, "", &hedging("").replace(policy, ""), "lb_policy: ROUND_ROBIN");
    let text = text.replace(domains, &format!("{domains}\n                      {policy}"));
    let proxy = Proxy::with_threads(&text, 1).await;
    let answer = raw(proxy.at("http"), GET).await;
    assert!(statuses(&answer) == ["200"] && answer.ends_with("first"), "{answer}");
    wait(&closed).await;
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 0.0).await;
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_cancelled").await, 1.0);
}

#[tokio::test]
async fn a_bad_answer_does_not_win_while_another_try_is_under_way() {
    let closed = signal();
    let (came, told) = (signal(), Arc::clone(&closed));
    let (upstreams, requests) = pair(move |mut stream, number| {
        let (came, closed) = (Arc::clone(&came), Arc::clone(&told));
        async move {
            if number == 0 {
                wait(&came).await;
                say(&mut stream, "503", "first").await;
                cancelled(&mut stream).await;
                closed.add_permits(1);
            } else {
                came.add_permits(1);
                wait(&closed).await;
                say(&mut stream, "503", "second").await;
            }
        }
    })
    .await;
    let proxy = start(&upstreams, &hedging(""), "").await;
    let answer = raw(proxy.at("http"), GET).await;
    assert!(statuses(&answer) == ["503"] && answer.ends_with("second"), "{answer}");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry_limit_exceeded").await, 1.0);
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 0.0).await;
}

#[tokio::test]
async fn tries_that_all_break_end_in_one_failure() {
    let came = signal();
    let (upstreams, requests) = pair(move |stream, number| {
        let came = Arc::clone(&came);
        async move {
            if number == 0 {
                wait(&came).await;
            } else {
                came.add_permits(1);
            }
            drop(stream);
        }
    })
    .await;
    let proxy = start(&upstreams, &hedging(""), "").await;
    let answer = raw(proxy.at("http"), GET).await;
    assert!(statuses(&answer) == ["503"] && answer.contains("connection termination"), "{answer}");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 0.0).await;
}

#[tokio::test]
async fn there_are_no_more_tries_than_the_policy_allows_and_none_for_what_cannot_be_repeated() {
    let (upstreams, requests) = pair(|mut stream, _| async move { cancelled(&mut stream).await }).await;
    let route = hedging(", num_retries: 2").replace("15s", "1.5s");
    let proxy = start(&upstreams, &route, "").await;
    let answer = raw(proxy.at("http"), GET).await;
    assert!(statuses(&answer) == ["504"] && answer.contains("upstream request timeout"), "{answer}");
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry_limit_exceeded").await, 1.0);
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 0.0).await;
    let post = GET.replace("GET", "POST").replace("Host", "Content-Length: 0\r\nHost");
    assert_eq!(statuses(&raw(proxy.at("http"), &post).await), ["504"]);
    assert_eq!(requests.load(Ordering::SeqCst), 4);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_per_try_timeout").await, 1.0);
}

#[tokio::test]
async fn without_room_for_a_retry_the_only_try_goes_on() {
    let go = signal();
    let told = Arc::clone(&go);
    let (upstreams, requests) = pair(move |mut stream, _| {
        let go = Arc::clone(&told);
        async move {
            wait(&go).await;
            say(&mut stream, "200", "at last").await;
        }
    })
    .await;
    let limits = "circuit_breakers: { thresholds: [{ max_retries: 0 }] }";
    let proxy = start(&upstreams, &hedging(""), limits).await;
    let address = proxy.at("http");
    let asking = tokio::spawn(async move { raw(address, GET).await });
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_retry_overflow", 1.0).await;
    go.add_permits(1);
    let answer = asking.await.expect("asks");
    assert!(statuses(&answer) == ["200"] && answer.ends_with("at last"), "{answer}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

/// An HTTP/2 server that leaves each request to `handle`, with how many came before.
async fn h2_server<F>(
    count: Arc<AtomicUsize>,
    handle: impl Fn(Request<RecvStream>, SendResponse<Bytes>, usize) -> F + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (handle, count) = (handle.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut h2 = h2::server::handshake(stream).await.expect("shakes hands");
                while let Some(Ok((request, respond))) = h2.accept().await {
                    let number = count.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(handle(request, respond, number));
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn over_http2_the_stream_that_lost_is_reset() {
    let (reset, requests) = (signal(), Arc::new(AtomicUsize::new(0)));
    let told = Arc::clone(&reset);
    let handle = move |mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>, number: usize| {
        let reset = Arc::clone(&told);
        async move {
            let mut body = Vec::new();
            while let Some(Ok(data)) = request.body_mut().data().await {
                body.extend_from_slice(&data);
            }
            assert_eq!(body, b"hello");
            if number.is_multiple_of(2) {
                let why = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                assert_eq!(why.expect("a reset"), h2::Reason::CANCEL);
                reset.add_permits(1);
            } else {
                let mut stream = respond.send_response(Response::new(()), false).expect("answers");
                let _ = stream.send_data(Bytes::from_static(b"second"), true);
            }
        }
    };
    let addresses = [
        h2_server(Arc::clone(&requests), handle.clone()).await,
        h2_server(Arc::clone(&requests), handle).await,
    ];
    let cluster = r#"lb_policy: ROUND_ROBIN
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: {} }"#;
    let proxy = Proxy::with_threads(&bootstrap(&addresses, "", &hedging(""), cluster), 1).await;
    let put = GET.replace("GET", "PUT").replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello");
    for _ in 0..3 {
        let answer = raw(proxy.at("http"), &put).await;
        assert!(statuses(&answer) == ["200"] && answer.contains("second"), "{answer}");
        wait(&reset).await;
    }
    assert_eq!(requests.load(Ordering::SeqCst), 6);
    assert_eq!(proxy.metric("envoy_cluster_upstream_cx_total").await, 2.0);
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_retry").await, 3.0);
    wait_for_metric(&proxy, "envoy_cluster_upstream_rq_active", 0.0).await;
    assert_eq!(proxy.metric("envoy_cluster_upstream_rq_cancelled").await, 3.0);
}
