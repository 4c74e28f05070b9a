//! One HTTP/1.1 request over one connection: for probes, hooks and the admin endpoints of sidecars.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::task::AbortOnDropHandle;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("connection to {0} failed")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("the request is not valid")]
    Request(#[source] http::Error),
    #[error("the request failed")]
    Exchange(#[source] hyper::Error),
}

/// Longest body that is kept; metrics of a sidecar with many services are the longest that we ask for.
const MAX_BODY: usize = 4 << 20;

/// Connects and sends a request without a body; see [`request`].
pub(crate) async fn call(address: SocketAddr, method: &str, path: &str) -> Result<(u16, String), HttpError> {
    let stream = TcpStream::connect(address).await.map_err(|error| HttpError::Connect(address, error))?;
    request(stream, method, &address.to_string(), path, std::iter::empty()).await
}

/// Sends a request without a body; returns the status and the text of the answer, cut at 4 MiB.
pub(crate) async fn request<'a>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    authority: &str,
    path: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(u16, String), HttpError> {
    let mut builder = http::Request::builder().method(method).uri(path).header("user-agent", "weft-node");
    let mut host = authority;
    for (name, value) in headers {
        if name.eq_ignore_ascii_case("host") {
            host = value;
        } else {
            builder = builder.header(name, value);
        }
    }
    let request = builder
        .header("host", host)
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(HttpError::Request)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(HttpError::Exchange)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(HttpError::Exchange)?;
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(HttpError::Exchange)?;
        if let Some(data) = frame.data_ref() {
            let room = MAX_BODY - kept.len();
            kept.extend_from_slice(&data.chunk()[..data.remaining().min(room)]);
            if kept.len() == MAX_BODY {
                break;
            }
        }
    }
    Ok((status, String::from_utf8_lossy(&kept).into_owned()))
}
