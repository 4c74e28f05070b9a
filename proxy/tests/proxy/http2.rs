use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Proxy, Upstream, bootstrap};

const HTTP2: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: { http2_protocol_options: {} }"#;

/// An HTTP/2 server that gives back the body of a request, with a trailer.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let te = request.headers().get("te").cloned();
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().expect("a value"));
                let frames = [Ok::<_, Infallible>(Frame::data(body)), Ok(Frame::trailers(trailers))];
                let mut response = Response::new(StreamBody::new(tokio_stream(frames)));
                if let Some(te) = te {
                    response.headers_mut().insert("x-te", te);
                }
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(
                server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

fn tokio_stream<T>(items: impl IntoIterator<Item = T>) -> impl futures::Stream<Item = T> {
    futures::stream::iter(items)
}

async fn request(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> (Response<()>, Bytes, Option<HeaderMap>) {
    let stream = TcpStream::connect(address).await.expect("connects");
    let (mut sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("shakes hands");
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body");
    let trailers = body.trailers().cloned();
    (Response::from_parts(parts, ()), body.to_bytes(), trailers)
}

fn post(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://web/a")
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::from(body))
        .expect("a request")
}

#[tokio::test]
async fn http2_to_http1_becomes_one_plain_request() {
    let upstream = Upstream::echo().await;
    let proxy = Proxy::start(&bootstrap(&[upstream.address], "", "", "")).await;
    let (response, body, _) = request(proxy.at("http"), post("hello")).await;
    assert_eq!(response.status(), 200);
    let text = String::from_utf8_lossy(&body);
    assert!(
        text.starts_with("POST /a HTTP/1.1\r\nhost: web\r\n") && text.ends_with("\r\n\r\nhello"),
        "{text}"
    );
    assert!(text.contains("cookie: a=1; b=2\r\n") && text.contains("content-length: 5\r\n"), "{text}");
    assert!(!text.contains("te: trailers"), "{text}");
}

#[tokio::test]
async fn http2_passes_through_with_trailers() {
    let proxy = Proxy::start(&bootstrap(&[upstream().await], "", "", HTTP2)).await;
    for _ in 0..3 {
        let (response, body, trailers) = request(proxy.at("http"), post("hello")).await;
        assert_eq!((response.status().as_u16(), &body[..]), (200, &b"hello"[..]));
        assert_eq!(response.headers()["x-te"], "trailers");
        assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
    }
    assert!(
        proxy.metric("envoy_cluster_upstream_cx_http2_total").await <= 2.0,
        "one connection for each worker"
    );
}

#[tokio::test]
async fn requests_that_follow_each_other_share_nothing() {
    let proxy = Proxy::start(&bootstrap(&[upstream().await], "", "", HTTP2)).await;
    let bare = || Request::post("http://other/").body(Full::from("bare")).expect("a request");
    for _ in 0..4 {
        let (response, body, _) = request(proxy.at("http"), post("with fields")).await;
        assert_eq!((&body[..], response.headers().contains_key("x-te")), (&b"with fields"[..], true));
        let (response, body, _) = request(proxy.at("http"), bare()).await;
        assert_eq!((&body[..], response.headers().contains_key("x-te")), (&b"bare"[..], false));
    }
}

#[tokio::test]
async fn http1_to_http2_works_too() {
    let proxy = Proxy::start(&bootstrap(&[upstream().await], "", "", HTTP2)).await;
    let answer =
        crate::support::raw(proxy.at("http"), "POST / HTTP/1.1\r\nHost: w\r\nContent-Length: 3\r\n\r\nabc")
            .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("3\r\nabc\r\n0\r\ngrpc-status: 0\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn grpc_errors_of_our_own_are_grpc_errors() {
    let proxy = Proxy::start(&bootstrap(&[], "", "", "")).await;
    let call = Request::post("http://web/s/m")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .expect("a request");
    let (response, _, _) = request(proxy.at("http"), call).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
}
