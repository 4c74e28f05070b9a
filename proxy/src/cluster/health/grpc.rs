//! The health protocol of gRPC (`grpc.health.v1.Health/Check`), over a connection of its own.

use std::io;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::Verdict;

/// `HealthCheckResponse.status`: its field with `SERVING`.
const SERVING: [u8; 2] = [0x08, 1];

/// Asks for the state of a service.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    authority: &str,
    service: &str,
) -> io::Result<Verdict> {
    let (mut client, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    // Both end with the answer: the connection is for this alone.
    tokio::select! {
        ended = connection => {
            ended.map_err(io::Error::other)?;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
        verdict = ask(&mut client, authority, service) => verdict.map_err(io::Error::other),
    }
}

async fn ask(
    client: &mut h2::client::SendRequest<Bytes>,
    authority: &str,
    service: &str,
) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut body) = client.send_request(request, false)?;
    body.send_data(message(service), true)?;
    let answer = answer.await?;
    if answer.status() != 200 {
        return Ok(Verdict::Failed);
    }
    let mut body = answer.into_body();
    let mut data = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        data.put(chunk);
        if data.len() > 1_024 {
            return Ok(Verdict::Failed);
        }
    }
    let trailers = body.trailers().await?;
    let done =
        trailers.is_some_and(|trailers| trailers.get("grpc-status").is_some_and(|status| status == "0"));
    Ok(match data.get(5..) {
        Some(message) if done && message == SERVING => Verdict::Well,
        // An answer, and not the one that is hoped for.
        Some(_) if done => Verdict::Unwell,
        _ => Verdict::Failed,
    })
}

/// `HealthCheckRequest` with its gRPC frame.
fn message(service: &str) -> Bytes {
    let request = if service.is_empty() {
        Vec::new()
    } else {
        // Field 1, a string; the configuration keeps it below the 128 bytes that have a length of one byte.
        [&[0x0a, service.len() as u8], service.as_bytes()].concat()
    };
    let mut frame = BytesMut::with_capacity(5 + request.len());
    frame.put_u8(0);
    frame.put_u32(request.len() as u32);
    frame.extend_from_slice(&request);
    frame.freeze()
}
