//! Connections to upstreams over HTTP/2, and what happens to a stream when one of its sides fails.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest, server::SendResponse};
use http::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Barrier, mpsc},
};

use crate::support::{Proxy, bootstrap};

fn options(http2: &str, more: &str) -> String {
    format!(
        r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {{ http2_protocol_options: {{ {http2} }} }}
    {more}"#
    )
}

/// A request that an upstream got: on which connection, the how-manieth there, and its two halves.
struct Taken {
    connection: usize,
    number: usize,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

/// An HTTP/2 server that leaves each request to `handle`.
struct H2Upstream {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl H2Upstream {
    async fn start<F>(streams: u32, handle: impl Fn(Taken) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with_goaway(streams, usize::MAX, handle).await
    }

    /// Says GOAWAY after as many requests on a connection.
    async fn with_goaway<F>(
        streams: u32,
        last: usize,
        handle: impl Fn(Taken) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = count.fetch_add(1, Ordering::SeqCst);
                let handle = handle.clone();
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(streams);
                    let mut h2 = builder.handshake(stream).await.expect("shakes hands");
                    let mut number = 0;
                    while let Some(Ok((request, respond))) = h2.accept().await {
                        tokio::spawn(handle(Taken { connection, number, request, respond }));
                        number += 1;
                        if number == last {
                            h2.graceful_shutdown();
                        }
                    }
                });
            }
        });
        Self { address, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn answer(mut respond: SendResponse<Bytes>) {
    let _ = respond.send_response(Response::new(()), true);
}

async fn start(upstream: &H2Upstream, cluster: &str) -> Proxy {
    Proxy::with_threads(&bootstrap(&[upstream.address], "", "timeout: 0s", cluster), 1).await
}

async fn client(proxy: &Proxy) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.at("http")).await.expect("connects");
    let (sender, connection) = h2::client::handshake(stream).await.expect("shakes hands");
    tokio::spawn(connection);
    sender
}

fn get() -> Request<()> {
    Request::get("http://web/a").body(()).expect("a request")
}

/// The status of an answer to an ordinary request.
async fn status(sender: &SendRequest<Bytes>) -> u16 {
    let mut sender = sender.clone().ready().await.expect("ready");
    let (response, _) = sender.send_request(get(), true).expect("sends");
    response.await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn a_connection_that_is_full_gets_a_second_beside_it() {
    let together = Arc::new(Barrier::new(4));
    let upstream = H2Upstream::start(2, move |taken| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await;
            answer(taken.respond);
        }
    })
    .await;
    let proxy = start(&upstream, &options("", "")).await;
    let sender = client(&proxy).await;
    let statuses = tokio::join!(status(&sender), status(&sender), status(&sender), status(&sender));
    assert_eq!(statuses, (200, 200, 200, 200));
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn the_configured_number_of_streams_holds_and_the_breaker_bounds_the_connections() {
    let upstream = H2Upstream::start(100, |taken| async move { answer(taken.respond) }).await;
    let cluster = format!(
        "{}\ncircuit_breakers: {{ thresholds: [ {{ max_connections: 1 }} ] }}",
        options("max_concurrent_streams: 1", "")
    );
    let proxy = start(&upstream, &cluster).await;
    let sender = client(&proxy).await;
    // All wait for the one place, and all get it.
    let statuses = tokio::join!(status(&sender), status(&sender), status(&sender), status(&sender));
    assert_eq!(statuses, (200, 200, 200, 200));
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn connections_that_say_goodbye_or_are_worn_out_are_replaced_without_an_error() {
    let upstream = H2Upstream::with_goaway(100, 3, |taken| async move { answer(taken.respond) }).await;
    let proxy = start(&upstream, &options("", "")).await;
    let sender = client(&proxy).await;
    for _ in 0..12 {
        assert_eq!(status(&sender).await, 200);
    }
    assert!((4..=12).contains(&upstream.connections()), "{}", upstream.connections());

    let upstream = H2Upstream::start(100, |taken| async move {
        assert!(taken.number < 2);
        answer(taken.respond);
    })
    .await;
    let worn = options("", "common_http_protocol_options: { max_requests_per_connection: 2 }");
    let proxy = start(&upstream, &worn).await;
    let sender = client(&proxy).await;
    for _ in 0..6 {
        assert_eq!(status(&sender).await, 200);
    }
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn a_stream_that_was_refused_is_sent_again_on_another_connection() {
    let upstream = H2Upstream::start(100, |mut taken| async move {
        if taken.connection == 0 {
            taken.respond.send_reset(Reason::REFUSED_STREAM);
        } else {
            answer(taken.respond);
        }
    })
    .await;
    let proxy = start(&upstream, &options("", "")).await;
    let sender = client(&proxy).await;
    let mut ready = sender.clone().ready().await.expect("ready");
    // Not idempotent: only what was certainly not processed is sent again.
    let post = Request::post("http://web/a").body(()).expect("a request");
    let (response, _) = ready.send_request(post, true).expect("sends");
    assert_eq!(response.await.expect("an answer").status(), 200);
    for _ in 0..5 {
        assert_eq!(status(&sender).await, 200);
    }
    assert_eq!(upstream.connections(), 2, "one that refuses does not cost a connection for each request");
}

#[tokio::test]
async fn a_reset_by_the_client_cancels_the_upstream_stream_at_once() {
    let (tell, mut told) = mpsc::channel(1);
    let upstream = H2Upstream::start(100, move |mut taken| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(None).await;
            let reason = std::future::poll_fn(|cx| taken.respond.poll_reset(cx)).await;
            let _ = tell.send(reason.ok()).await;
        }
    })
    .await;
    let proxy = start(&upstream, &options("", "")).await;
    let mut sender = client(&proxy).await;
    let (response, mut stream) = sender.send_request(get(), true).expect("sends");
    assert_eq!(told.recv().await, Some(None), "the request came");
    stream.send_reset(Reason::CANCEL);
    drop(response);
    let told = tokio::time::timeout(Duration::from_secs(1), told.recv()).await;
    assert_eq!(told, Ok(Some(Some(Reason::CANCEL))));
}

#[tokio::test]
async fn an_upstream_that_resets_is_a_503_before_the_head_and_a_reset_after_it() {
    let upstream = H2Upstream::start(100, |mut taken| async move {
        if taken.request.uri().path() == "/late" {
            let mut stream = taken.respond.send_response(Response::new(()), false).expect("sends");
            stream.send_data(Bytes::from_static(b"abc"), false).expect("sends");
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        } else {
            taken.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let proxy = start(&upstream, &options("", "")).await;
    let sender = client(&proxy).await;
    assert_eq!(status(&sender).await, 503);
    let mut ready = sender.ready().await.expect("ready");
    let late = Request::get("http://web/late").body(()).expect("a request");
    let (response, _) = ready.send_request(late, true).expect("sends");
    let mut body = response.await.expect("a head").into_body();
    let error = loop {
        match body.data().await.expect("an error comes") {
            Ok(data) => body.flow_control().release_capacity(data.len()).expect("room"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn a_stuck_reader_of_a_long_stream_costs_windows_and_no_more() {
    const LENGTH: usize = 100 * 1024 * 1024;
    let taken_by_proxy = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken_by_proxy);
    let upstream = H2Upstream::start(100, move |mut taken| {
        let count = Arc::clone(&count);
        async move {
            let mut stream = taken.respond.send_response(Response::new(()), false).expect("sends");
            let mut left = LENGTH;
            while left > 0 {
                stream.reserve_capacity(left.min(16 * 1024));
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                let piece = room.min(left);
                left -= piece;
                if stream.send_data(Bytes::from(vec![7; piece]), left == 0).is_err() {
                    return;
                }
                count.fetch_add(piece, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = start(&upstream, &options("", "")).await;
    let mut sender = client(&proxy).await;
    let (response, _) = sender.send_request(get(), true).expect("sends");
    let mut body = response.await.expect("a head").into_body();
    let settled = loop {
        let before = taken_by_proxy.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if before > 0 && taken_by_proxy.load(Ordering::SeqCst) == before {
            break before;
        }
    };
    assert!(settled <= 1024 * 1024, "the proxy took {settled} bytes for a reader who takes none");
    let mut read = 0;
    while let Some(data) = body.data().await {
        let length = data.expect("data").len();
        body.flow_control().release_capacity(length).expect("room");
        read += length;
    }
    assert_eq!(read, LENGTH);
}
