//! `grpc_web`: lets pages in browsers call gRPC services.
//!
//! Source: Envoy's `envoy.extensions.filters.http.grpc_web.v3`; gRPC's "PROTOCOL-WEB". A browser can neither read trailers
//! nor, over some of its interfaces, bytes: the trailers become the last frame of the body, and all of it base64 for those
//! who ask for text.

mod text;

use text::{Decoder, Encoder};
use weft_xds::{any, pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb as Proto};

use super::{Filter, Kind, Request, Response, Step};
use crate::{
    config::value,
    http::{
        body::Trailers,
        change::{Spoilt, Transform},
        exchange::{Reason, Reply, grpc_status},
        h1::framing::BodyLength,
        head::{Head, Known},
    },
};

pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    compile: |path, config, _| {
        value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(GrpcWeb))
    },
    of_route: None,
};

const BINARY: [&[u8]; 2] = [b"application/grpc-web", b"application/grpc-web+proto"];
const TEXT: [&[u8]; 2] = [b"application/grpc-web-text", b"application/grpc-web-text+proto"];

/// Set in the first byte of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;
/// How much of an answer that is not gRPC becomes the message of the status.
const MAX_MESSAGE: usize = 16 * 1024;

/// The filter.
#[derive(Debug)]
struct GrpcWeb;

/// A call from a page, as the exchange remembers it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Whether the answer is to be base64.
    text: bool,
}

// === impl GrpcWeb ===

impl Filter for GrpcWeb {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let Request { head, record, body, .. } = request;
        let text = match head.known(Known::ContentType) {
            Some(media) if BINARY.contains(&media) => false,
            Some(media) if TEXT.contains(&media) => true,
            _ => return Step::Continue,
        };
        let wants_text = head.get(b"accept").is_some_and(|accept| TEXT.contains(&accept));
        record.grpc_web = Some(Call { text: wants_text });
        head.remove_known(Known::ContentLength);
        head.set(b"content-type", b"application/grpc");
        head.set(b"te", b"trailers");
        if head.get(b"grpc-accept-encoding").is_none() {
            head.append(b"grpc-accept-encoding", b"identity");
        }
        if text && body.change(Box::new(Decoder::default())).is_err() {
            let text = "Bad gRPC-web request, invalid base64 data.";
            return Step::Reply(Box::new(Reply::new(400, Reason::GrpcWebBase64, text)));
        }
        Step::Continue
    }

    fn on_response(&self, response: Response<'_>) {
        let Some(Call { text }) = response.record.grpc_web.filter(|_| response.saw_request) else { return };
        let (head, body) = (response.head, response.body);
        let is_over = body.length == BodyLength::Empty;
        let understood = is_grpc(head, is_over) || is_grpc_web(head);
        let status = head.status;
        head.remove_known(Known::ContentLength);
        head.set(b"content-type", if text { TEXT[1] } else { BINARY[1] });
        if is_over {
            return;
        }
        let transform: Box<dyn Transform> = match (understood, body.local) {
            (true, _) => Box::new(Frames::new(text)),
            (false, Some(local)) => {
                head.append(b"grpc-message", &percent_encoded(local));
                head.append(b"grpc-status", grpc_status(status).to_string().as_bytes());
                head.append(b"content-length", b"0");
                Box::new(Nothing)
            }
            (false, None) => Box::new(Explained { status, message: Vec::new(), text }),
        };
        body.changes.push(transform);
    }
}

fn is_grpc(head: &Head, is_over: bool) -> bool {
    if is_over { head.get(b"grpc-status").is_some() } else { head.status == 200 && head.is_grpc() }
}

fn is_grpc_web(head: &Head) -> bool {
    let media = head.known(Known::ContentType).and_then(|value| value.split(|byte| *byte == b';').next());
    let media = media.map(<[u8]>::trim_ascii).unwrap_or_default();
    head.status == 200 && BINARY.iter().any(|known| media.eq_ignore_ascii_case(known))
}

/// Everything that a field value cannot hold, and what stands for it.
fn percent_encoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(*byte),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out
}

/// Trailers as a frame of the body.
fn trailers_frame(trailers: &Trailers) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        lines.extend_from_slice(&name.to_ascii_lowercase());
        lines.push(b':');
        lines.extend_from_slice(value);
        lines.extend_from_slice(b"\r\n");
    }
    let length = u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[TRAILERS][..], &length, &lines].concat()
}

// === the bodies of answers ===

/// A gRPC body: its frames as they are, and one more with the trailers.
struct Frames {
    /// For text.
    encoder: Option<Encoder>,
    /// Of the frame that comes: its head, as far as it is known, and how much is to follow.
    head: Vec<u8>,
    remaining: usize,
}

/// An answer that is not gRPC: all that is left of it is a status, with its text as the message.
struct Explained {
    status: u16,
    message: Vec<u8>,
    text: bool,
}

/// What was said in the head already.
struct Nothing;

const FRAME_HEAD: usize = 5;

impl Frames {
    fn new(text: bool) -> Self {
        Self { encoder: text.then(Encoder::default), head: Vec::new(), remaining: 0 }
    }

    /// How many of these bytes belong to the frame at hand, and whether it ends with them.
    fn part_of_frame(&mut self, data: &[u8]) -> (usize, bool) {
        if self.head.len() < FRAME_HEAD {
            let count = data.len().min(FRAME_HEAD - self.head.len());
            self.head.extend_from_slice(&data[..count]);
            if let Ok([_, length @ ..]) = <[u8; FRAME_HEAD]>::try_from(&*self.head) {
                self.remaining = u32::from_be_bytes(length) as usize;
            }
            return (count, self.end_of_frame());
        }
        let count = data.len().min(self.remaining);
        self.remaining -= count;
        (count, self.end_of_frame())
    }

    fn end_of_frame(&mut self) -> bool {
        let over = self.head.len() == FRAME_HEAD && self.remaining == 0;
        if over {
            self.head.clear();
        }
        over
    }
}

impl Transform for Frames {
    fn data(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<(), Spoilt> {
        let Some(mut encoder) = self.encoder.take() else {
            out.extend_from_slice(data);
            return Ok(());
        };
        // Each frame is padded by itself, so that a client can read it when it is there.
        while !data.is_empty() {
            let (count, over) = self.part_of_frame(data);
            encoder.add(&data[..count], out);
            if over {
                encoder.pad(out);
            }
            data = &data[count..];
        }
        self.encoder = Some(encoder);
        Ok(())
    }

    fn end(&mut self, trailers: &mut Trailers, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        let frame = if trailers.is_empty() { Vec::new() } else { trailers_frame(trailers) };
        trailers.clear();
        match &mut self.encoder {
            Some(encoder) => {
                encoder.pad(out);
                encoder.add(&frame, out);
                encoder.pad(out);
            }
            None => out.extend_from_slice(&frame),
        }
        Ok(())
    }
}

impl Transform for Explained {
    fn data(&mut self, data: &[u8], _: &mut Vec<u8>) -> Result<(), Spoilt> {
        let room = MAX_MESSAGE - self.message.len();
        self.message.extend_from_slice(&data[..data.len().min(room)]);
        Ok(())
    }

    fn end(&mut self, trailers: &mut Trailers, out: &mut Vec<u8>) -> Result<(), Spoilt> {
        *trailers = vec![
            (b"grpc-message".to_vec(), percent_encoded(&self.message)),
            (b"grpc-status".to_vec(), grpc_status(self.status).to_string().into_bytes()),
        ];
        Frames::new(self.text).end(trailers, out)
    }
}

impl Transform for Nothing {
    fn data(&mut self, _: &[u8], _: &mut Vec<u8>) -> Result<(), Spoilt> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a body that comes in pieces of this size.
    fn changed(mut transform: impl Transform, body: &[u8], piece: usize, trailers: &mut Trailers) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in body.chunks(piece) {
            transform.data(piece, &mut out).expect("data");
        }
        transform.end(trailers, &mut out).expect("ends");
        out
    }

    #[test]
    fn trailers_are_the_last_frame_and_as_text_each_frame_is_padded_by_itself() {
        let body = b"\0\0\0\0\x01a\0\0\0\0\0\0\0\0\0\x02bc";
        let trailers = vec![(b"grpc-status".to_vec(), b"0".to_vec()), (b"X-a".to_vec(), b"b".to_vec())];
        let frame = b"\x80\0\0\0\x16grpc-status:0\r\nx-a:b\r\n";
        for piece in [1, 4, 100] {
            let mut left = trailers.clone();
            let binary = changed(Frames::new(false), body, piece, &mut left);
            assert_eq!(binary, [&body[..], frame].concat());
            assert!(left.is_empty());
            let text = changed(Frames::new(true), body, piece, &mut trailers.clone());
            assert_eq!(
                String::from_utf8_lossy(&text),
                "AAAAAAFhAAAAAAA=AAAAAAJiYw==gAAAABZncnBjLXN0YXR1czowDQp4LWE6Yg0K",
                "pieces of {piece}"
            );
        }
        assert_eq!(changed(Frames::new(true), b"", 1, &mut Vec::new()), b"");
    }

    #[test]
    fn what_is_not_grpc_becomes_a_status_with_a_message_of_bounded_length() {
        let body = [b"100% wrong\n".to_vec(), vec![b'x'; MAX_MESSAGE]].concat();
        let explained = Explained { status: 503, message: Vec::new(), text: false };
        let out = changed(explained, &body, 1000, &mut Vec::new());
        let text = String::from_utf8_lossy(&out[FRAME_HEAD..]).into_owned();
        assert!(
            text.starts_with("grpc-message:100%25 wrong%0Axxx") && text.ends_with("\r\ngrpc-status:14\r\n")
        );
        assert!(text.len() < MAX_MESSAGE + 100, "{}", text.len());
    }
}
