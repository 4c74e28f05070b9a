//! The body of a request: messages off gRPC's frames.

use std::marker::PhantomData;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use prost::Message;
use tonic::{Status, body::Body};

/// What precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The messages that a client sends on one stream.
///
/// Not tonic's, which keeps as much memory as the largest message took: a client that named a thousand resources once
/// says no more than "yes" afterwards, and there are thousands of such clients.
pub(super) struct Requests<M> {
    body: Body,
    /// What arrived of the next message and after it; nothing, and no memory, while the client is silent.
    arrived: BytesMut,
    longest: usize,
    messages: PhantomData<fn() -> M>,
}

// === impl Requests ===

impl<M: Message + Default> Requests<M> {
    /// Of messages of up to `longest` bytes.
    pub(super) fn new(body: Body, longest: usize) -> Self {
        Self { body, arrived: BytesMut::new(), longest, messages: PhantomData }
    }

    /// The next message; `None` when the client has ended its side. Cancel-safe.
    ///
    /// An error ends the stream: what is too long, compressed or no message, and what became of the connection.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(length) = self.length()?
                && self.arrived.len() - PREFIX >= length
            {
                self.arrived.advance(PREFIX);
                let message = M::decode(self.arrived.split_to(length))
                    .map_err(|error| Status::internal(format!("cannot be decoded: {error}")))?;
                if self.arrived.is_empty() {
                    self.arrived = BytesMut::new();
                }
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.arrived.extend_from_slice(&data);
                    }
                }
                None if self.arrived.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ended within a message")),
            }
        }
    }

    /// Of the next message, once that much is known.
    fn length(&self) -> Result<Option<usize>, Status> {
        let Some((&[compressed, a, b, c, d], _)) = self.arrived.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Status::internal("a compressed message on a stream that has no grpc-encoding"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.longest {
            let longest = self.longest;
            return Err(Status::out_of_range(format!(
                "a message of {length} bytes, where {longest} are allowed"
            )));
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tonic::Code;

    use super::*;
    use crate::pb::envoy::service::discovery::v3::DiscoveryRequest;

    fn message(type_url: &str) -> Vec<u8> {
        let message = DiscoveryRequest { type_url: type_url.into(), ..Default::default() }.encode_to_vec();
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        [&[0], length.as_slice(), &message].concat()
    }

    fn requests(bytes: &[u8], piece: usize) -> Requests<DiscoveryRequest> {
        let pieces: Vec<_> = bytes
            .chunks(piece)
            .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        Requests::new(Body::new(StreamBody::new(futures::stream::iter(pieces))), 100)
    }

    #[tokio::test]
    async fn messages_are_read_however_they_are_cut_and_leave_no_memory_behind() {
        let bytes = [message("one"), message(""), message(&"long".repeat(20))].concat();
        for piece in 1..=bytes.len() {
            let mut requests = requests(&bytes, piece);
            for expected in ["one", "", &"long".repeat(20)] {
                let read = requests.next().await.expect("sound").expect("a message");
                assert_eq!(read.type_url, expected);
            }
            assert_eq!(requests.arrived.capacity(), 0);
            assert_eq!(requests.next().await.expect("sound"), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_stream_with_its_reason() {
        let mut truncated = message("one");
        truncated.pop();
        let mut compressed = message("one");
        compressed[0] = 1;
        for (bytes, code, reason) in [
            (truncated, Code::Internal, "within a message"),
            (compressed, Code::Internal, "compressed"),
            (message(&"long".repeat(30)), Code::OutOfRange, "122 bytes, where 100"),
            (vec![0, 0, 0, 0, 1, 0xff], Code::Internal, "cannot be decoded"),
            (vec![0, 0], Code::Internal, "within a message"),
        ] {
            let status = requests(&bytes, 3).next().await.expect_err(reason);
            assert_eq!(status.code(), code);
            assert!(status.message().contains(reason), "{status}");
        }
    }
}
