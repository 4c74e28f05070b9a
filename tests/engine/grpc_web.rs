//! gRPC-Web as a page in a browser sends it, over HTTP/1.1, in front of a server of Python's grpcio.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;
use weft_tests::{
    bootstrap::Bootstrap,
    need,
    proxy::Proxy,
    python::{self, Script},
};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

#[tokio::test]
async fn a_page_calls_a_grpc_service_in_bytes_and_in_text() -> anyhow::Result<()> {
    let python = need!("grpc-web", python::find("grpc").await);
    let (_server, address) = Script::server(&python, "grpc_server.py", &["server"]).await?;
    let filter = |name: &str, message: &str| {
        let url = format!("type.googleapis.com/envoy.extensions.filters.http.{message}");
        json!({"name": name, "typed_config": {"@type": url}})
    };
    let filters = [filter("web", "grpc_web.v3.GrpcWeb"), filter("router", "router.v3.Router")];
    let bootstrap = Bootstrap::default().http("front", "up", json!({"http_filters": filters})).http2_cluster(
        "up",
        &[address],
        json!({}),
    );
    let proxy = Proxy::start(&bootstrap).await?;
    let front = proxy.at("front")?;

    // Large enough for several frames of HTTP/2, and no multiple of what base64 takes at a time.
    let message = vec![b'x'; 100_001];
    for (kind, size) in [(BINARY, 5), (TEXT, 5), (BINARY, message.len()), (TEXT, message.len())] {
        let (head, body) = call(front, "Unary", kind, &message[..size]).await?;
        ensure!(head.status() == 200 && head.headers()["content-type"] == kind, "{head:?}");
        let frames = frames(&body, kind)?;
        ensure!(frames.len() == 2 && frames[0] == (0, message[..size].to_vec()), "{kind}: {}", frames.len());
        let (flag, trailers) = &frames[1];
        let trailers = String::from_utf8_lossy(trailers);
        ensure!(*flag == 0x80 && trailers.contains("grpc-status:0\r\n"), "{trailers}");
    }

    for kind in [BINARY, TEXT] {
        // The status comes with the headers, and there is nothing else.
        let (head, body) = call(front, "Fail", kind, b"NOT_FOUND no such thing").await?;
        ensure!(head.headers()["grpc-status"] == "5" && body.is_empty(), "{head:?}");
        ensure!(head.headers()["grpc-message"] == "no such thing", "{head:?}");
        // The status comes after messages.
        let (_, body) = call(front, "FailAfter", kind, b"2 ABORTED").await?;
        let frames = frames(&body, kind)?;
        let last = String::from_utf8_lossy(&frames[2].1);
        ensure!(frames.len() == 3 && frames[0].1 == b"message" && frames[1].1 == b"message", "{frames:?}");
        ensure!(last.contains("grpc-status:10\r\n") && last.contains("grpc-message:after 2\r\n"), "{last}");
    }

    let (head, body) = send(front, "Unary", TEXT, "AAAAAAV".into()).await?;
    ensure!(head.status() == 400 && head.headers()["grpc-status"] == "13" && body.is_empty(), "{head:?}");
    ensure!(head.headers()["grpc-message"] == "Bad gRPC-web request, invalid base64 data.", "{head:?}");
    proxy.finish().await
}

/// Calls a method with one message.
async fn call(
    to: SocketAddr,
    method: &str,
    kind: &str,
    message: &[u8],
) -> anyhow::Result<(Response<()>, Bytes)> {
    let length = u32::try_from(message.len())?.to_be_bytes();
    let frame = [&[0][..], &length, message].concat();
    let body = if kind == TEXT { STANDARD.encode(frame).into() } else { frame.into() };
    send(to, method, kind, body).await
}

async fn send(
    to: SocketAddr,
    method: &str,
    kind: &str,
    body: Bytes,
) -> anyhow::Result<(Response<()>, Bytes)> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("/weft.Test/{method}"))
        .header("host", "page")
        .header("content-type", kind)
        .header("accept", kind)
        .header("x-grpc-web", "1")
        .body(Full::new(body))?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    Ok((Response::from_parts(parts, ()), body.collect().await?.to_bytes()))
}

/// The frames of a body: what is said of each, and what is in it.
fn frames(body: &[u8], kind: &str) -> anyhow::Result<Vec<(u8, Vec<u8>)>> {
    let mut bytes = body.to_vec();
    if kind == TEXT {
        // Padding may be anywhere: each text ends for itself.
        let groups = body.chunks(4).map(|group| STANDARD.decode(group));
        bytes = groups.collect::<Result<Vec<_>, _>>()?.concat();
    }
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let [flag, a, b, c, d, after @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        frames.push((*flag, after.get(..length).context("a frame is cut off")?.to_vec()));
        rest = &after[length..];
    }
    ensure!(rest.is_empty(), "{} bytes are no frame", rest.len());
    Ok(frames)
}
