//! Unary gRPC calls as bytes: a message in its frame, and out of it.

use bytes::{BufMut as _, Bytes, BytesMut};
pub use prost::Message;

/// What a frame begins with: whether the message is compressed, and its length.
const PREFIX: usize = 5;

/// Why bytes are not one message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is incomplete, compressed, or not the only one.
    #[error("not one plain gRPC message")]
    Frame,
    /// The message in it is not of the type.
    #[error("not a valid message")]
    Decode(#[source] prost::DecodeError),
}

/// A message as the body of a request.
pub fn frame<M: Message>(message: &M) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    // Nobody builds four gigabytes of message here; a receiver would refuse the frame.
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put(message.encode_to_vec().as_slice());
    bytes.freeze()
}

/// The message that is the body of a response.
pub fn unframe<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    let (prefix, message) = body.split_at_checked(PREFIX).ok_or(FrameError::Frame)?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || message.len() as u64 != u64::from(length) {
        return Err(FrameError::Frame);
    }
    M::decode(message).map_err(FrameError::Decode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::core::v3::Node;

    #[test]
    fn a_message_comes_out_of_its_frame_and_anything_else_does_not() {
        let node = Node { id: "a".into(), ..Node::default() };
        let body = frame(&node);
        assert_eq!(unframe::<Node>(&body).expect("a message"), node);
        let mut compressed = body.to_vec();
        compressed[0] = 1;
        for bad in [&b""[..], &body[..4], &body[..body.len() - 1], &[&body[..], &body].concat(), &compressed]
        {
            assert!(matches!(unframe::<Node>(bad), Err(FrameError::Frame)), "{bad:?}");
        }
        assert!(matches!(unframe::<Node>(&[0, 0, 0, 0, 1, 0xff]), Err(FrameError::Decode(_))));
    }
}
