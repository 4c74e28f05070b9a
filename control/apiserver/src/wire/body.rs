//! Bodies of requests and answers.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde_json::Value;
use weft_api::status::Status;

/// The body of every request and answer, whatever carries it.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
/// What can go wrong in the middle of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// As kube-apiserver: what etcd takes in one write, doubled for the encoding.
pub(crate) const MAX_BODY: usize = 3 << 20;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a body that is too large is still taken, and for how long: a client that is cut off while it sends may never
/// see the answer, for the system resets a connection that is closed with something unread in it.
const MAX_DISCARDED: usize = 64 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The whole body, if it is not too large and does not take too long.
pub(crate) async fn read(mut body: Body) -> Result<Bytes, Status> {
    let read = tokio::time::timeout(BODY_TIMEOUT, read_limited(&mut body)).await;
    let read = read.unwrap_or_else(|_| Err(Status::timeout("the request body was not received in time")));
    if read.as_ref().is_err_and(|status| status.code == StatusCode::PAYLOAD_TOO_LARGE.as_u16()) {
        // Whether or not that comes to an end: the answer is the same.
        tokio::time::timeout(DISCARD_TIMEOUT, discard(&mut body)).await.ok();
    }
    read
}

async fn discard(body: &mut Body) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(less) => left = less,
            None => break,
        }
    }
}

async fn read_limited(body: &mut Body) -> Result<Bytes, Status> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::bad_request("the request body ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MAX_BODY {
            return Err(Status::too_large(MAX_BODY));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

pub(crate) fn json_bytes(code: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    with_type(code, "application/json", bytes)
}

pub(crate) fn json(code: StatusCode, value: &Value) -> Response<Body> {
    json_bytes(code, value.to_string())
}

pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    with_type(code, "text/plain; charset=utf-8", text)
}

pub(crate) fn with_type(code: StatusCode, media: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// The answer that tells a failure.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_json());
    if code == StatusCode::PAYLOAD_TOO_LARGE {
        // The rest of the body may be unread, so the connection ends; a client that is not told sends its next request into
        // the void. Over HTTP/2 hyper leaves the field out.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(seconds) = status.details.as_ref().and_then(|details| details.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    const PIECE: usize = 1 << 16;

    /// So many pieces, and then nothing more for ever or the end; with a count of those that were taken.
    fn body(pieces: usize, ends: bool) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&taken);
        let sent = stream::repeat_with(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Frame::data(Bytes::from_static(&[b'x'; PIECE])))
        });
        let sent = sent.take(pieces);
        let body = if ends {
            StreamBody::new(sent).boxed_unsync()
        } else {
            StreamBody::new(sent.chain(stream::pending())).boxed_unsync()
        };
        (body, taken)
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_taken_to_its_end_so_that_the_client_sees_the_answer() {
        let pieces = MAX_BODY / PIECE + 16;
        let (large, taken) = body(pieces, true);
        assert_eq!(read(large).await.unwrap_err().code, 413);
        assert_eq!(taken.load(Ordering::SeqCst), pieces);
    }

    #[tokio::test(start_paused = true)]
    async fn but_neither_without_end_nor_for_ever() {
        let (endless, taken) = body(usize::MAX, true);
        assert_eq!(read(endless).await.unwrap_err().code, 413);
        assert!(taken.load(Ordering::SeqCst) * PIECE < MAX_BODY + MAX_DISCARDED + 3 * PIECE);
        let (stuck, _) = body(MAX_BODY / PIECE + 1, false);
        assert_eq!(read(stuck).await.unwrap_err().code, 413);
    }
}
