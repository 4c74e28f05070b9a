//! The body of a response: gRPC's frames, made while they are read.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::task::AtomicWaker;
use http_body::{Body, Frame};
use tokio::sync::mpsc;
use tonic::{Status, codegen::http::HeaderMap};

use crate::session::server::Encoding;

/// As much is made at a time: a frame of HTTP/2 has so much room.
const CHUNK: usize = 16 << 10;

/// What precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Sends responses as they come, then the status.
pub(super) struct ResponseBody {
    responses: mpsc::Receiver<Result<Box<Encoding>, Status>>,
    state: State,
    flight: Arc<Flight>,
}

/// Whether a piece is not written to the socket yet: the next one waits for that. Left to itself, HTTP/2 would take as
/// much as the client has room for, megabytes that a thousand clients that come at once would have wait here.
#[derive(Default)]
struct Flight {
    waits: AtomicBool,
    written: AtomicWaker,
}

/// Dropped when it is written.
struct Piece {
    bytes: BytesMut,
    flight: Arc<Flight>,
}

enum State {
    /// Between two responses.
    Idle,
    Writing(Box<Encoding>),
    /// The status is sent.
    Ended,
}

// === impl ResponseBody ===

impl ResponseBody {
    pub(super) fn new(responses: mpsc::Receiver<Result<Box<Encoding>, Status>>) -> Self {
        Self { responses, state: State::Idle, flight: Arc::default() }
    }

    fn end(&mut self, status: Status) -> Frame<Bytes> {
        self.state = State::Ended;
        let mut trailers = HeaderMap::new();
        // What it cannot express is in texts of ours only, of which there are none.
        let _ = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }

    fn write(&mut self, mut encoding: Box<Encoding>, mut chunk: BytesMut) -> Frame<Bytes> {
        let more = encoding.write(&mut chunk, CHUNK);
        self.state = if more { State::Writing(encoding) } else { State::Idle };
        self.flight.waits.store(true, Ordering::Release);
        let piece = Piece { bytes: chunk, flight: self.flight.clone() };
        Frame::data(Bytes::from_owner(piece))
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        self.flight.written.register(context.waker());
        if self.flight.waits.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.poll_room(context));
        let frame = match std::mem::replace(&mut self.state, State::Idle) {
            State::Ended => {
                self.state = State::Ended;
                return Poll::Ready(None);
            }
            State::Writing(encoding) => {
                let chunk = BytesMut::with_capacity(CHUNK.min(encoding.len()));
                self.write(encoding, chunk)
            }
            State::Idle => match ready!(self.responses.poll_recv(context)) {
                None => self.end(Status::ok("")),
                Some(Err(status)) => self.end(status),
                Some(Ok(encoding)) => match u32::try_from(encoding.len()) {
                    Err(_) => self.end(Status::out_of_range("the response is larger than 4 GiB")),
                    Ok(length) => {
                        let mut chunk = BytesMut::with_capacity(CHUNK.min(PREFIX + encoding.len()));
                        chunk.put_u8(0);
                        chunk.put_u32(length);
                        self.write(encoding, chunk)
                    }
                },
            },
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

// === impl Piece ===

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.flight.waits.store(false, Ordering::Release);
        self.flight.written.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pb::{envoy::service::discovery::v3::DeltaDiscoveryRequest, google::protobuf::Any},
        resource::ResourceType,
        session::{
            Layer, VersionedResource, VersionedSnapshot,
            server::{ServerSession, Variant},
        },
    };

    const LARGE: usize = 10_000;

    fn response(resources: usize) -> Box<Encoding> {
        let mut layer = Layer::default();
        for number in 0..resources {
            let body = Any { type_url: "t".into(), value: vec![0; LARGE] };
            let resource = VersionedResource::new(&number.to_string(), &body);
            layer.get_mut(ResourceType::Cluster).insert(Arc::new(resource));
        }
        let mut session = ServerSession::new(Variant::Delta);
        session.set_snapshot(Arc::new(VersionedSnapshot::layered(&layer, &Layer::default(), &[], &[])));
        session.delta_request(DeltaDiscoveryRequest {
            type_url: ResourceType::Cluster.type_url().into(),
            ..Default::default()
        });
        Box::new(session.next().expect("clusters").encode(Variant::Delta, "test"))
    }

    #[tokio::test]
    async fn a_response_is_made_in_pieces_as_the_client_reads() {
        let (responses, receiver) = mpsc::channel(2);
        let mut body = tokio_test::task::spawn(ResponseBody::new(receiver));
        let mut poll = || body.enter(|context, body| body.poll_frame(context));
        assert!(poll().is_pending());
        responses.try_send(Ok(response(100))).expect("room");
        responses.try_send(Err(Status::unavailable("gone"))).expect("room");
        let mut all = Vec::new();
        // A piece that nobody takes makes room for no more.
        let Poll::Ready(Some(Ok(held))) = poll() else { panic!("a piece is there") };
        assert!(poll().is_pending());
        all.extend_from_slice(&held.into_data().expect("data"));
        let trailers = loop {
            let Poll::Ready(Some(Ok(frame))) = poll() else { panic!("a piece is there") };
            match frame.into_data() {
                Ok(piece) => {
                    assert!(piece.len() <= CHUNK, "{} bytes at once", piece.len());
                    all.extend_from_slice(&piece);
                }
                Err(frame) => break frame.into_trailers().expect("trailers"),
            }
        };
        assert!(all.len() > 100 * LARGE);
        assert_eq!(
            all[..PREFIX],
            [vec![0], u32::try_from(all.len() - PREFIX).expect("short").to_be_bytes().to_vec()].concat()
        );
        assert_eq!(trailers["grpc-status"], "14");
        assert!(matches!(poll(), Poll::Ready(None)));
    }
}
