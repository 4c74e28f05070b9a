//! The codecs as the fuzz targets in `tests/fuzz` see them; no interface for anybody else.
//!
//! Public because each fuzz target is a crate of its own, hidden because none of this is meant to be built upon. There is
//! no logic here that is not on the request path: each function joins the parts, without sockets, in the order in which
//! a connection does.

use std::net::SocketAddr;

use crate::http::{
    body::Trailers,
    h1::{
        chunked::{Decoder, Found},
        compose,
        framing::{self, BodyLength},
        parse,
        scan::HeadScan,
    },
    head::{Head, Method, Version},
    path::{BadPath, EscapedSlashes, PathRules},
};
use crate::{
    listener::hello::{Inspector, Verdict},
    proxy_protocol::{self, read::Parsed},
};

/// How many fields a request may have.
pub const MAX_REQUEST_FIELDS: usize = parse::DEFAULT_MAX_FIELDS;

/// How reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading<T> {
    /// More bytes are needed.
    Incomplete,
    /// No bytes could make it acceptable.
    Refused,
    /// All of it was there.
    Complete(T),
}

/// A message that was read, and what the next hop gets for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Bytes of the input that were the message.
    pub consumed: usize,
    /// What is sent on.
    pub forwarded: Vec<u8>,
    /// The request target in its normal form; empty for responses.
    pub target: Vec<u8>,
    /// Host and port that a request is for.
    pub authority: Vec<u8>,
    /// The fields as they came.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// The payload.
    pub body: Vec<u8>,
    /// Fields after the body, as far as they are passed on.
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A chunked body that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchunked {
    /// Bytes of the input that were the body.
    pub consumed: usize,
    /// The payload.
    pub body: Vec<u8>,
    /// Fields after the body, as far as they are passed on.
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a ClientHello asks for: the server's name and the application protocols.
pub type Asked = (Option<String>, Vec<String>);

/// Who speaks to whom, and the length of the header that says so.
pub type Introduced = (usize, Option<(SocketAddr, SocketAddr)>);

/// Bytes that arrive in pieces.
struct Arriving<'a> {
    input: &'a [u8],
    /// What has arrived.
    end: usize,
    sizes: &'a mut dyn Iterator<Item = usize>,
}

/// What is done with encoded slashes in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slashes {
    /// They stay.
    Keep,
    /// There must be none.
    Reject,
    /// They become slashes.
    Unescape,
}

/// Reads the request that `input` begins with, arriving in pieces of `sizes` (what is left comes as one piece).
pub fn request(input: &[u8], sizes: &mut dyn Iterator<Item = usize>) -> Reading<Passed> {
    let mut arriving = Arriving { input, end: 0, sizes };
    let mut head = Head::default();
    let head_length = match arriving.head() {
        Reading::Complete(length) => length,
        Reading::Incomplete => return Reading::Incomplete,
        Reading::Refused => return Reading::Refused,
    };
    if parse::request(&input[..head_length], &mut head, parse::DEFAULT_MAX_FIELDS).is_err() {
        return Reading::Refused;
    }
    let Ok(length) = framing::of_request(&head) else { return Reading::Refused };
    if head.method == Method::Connect {
        // Where no route is for it; where one is, what follows is no message.
        return Reading::Refused;
    }
    let rules = PathRules { normalize: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep };
    match rules.apply(head.target()) {
        Ok(None) => {}
        Ok(Some(normal)) => {
            let target = head.intern(&normal);
            head.set_target(target);
        }
        Err(BadPath) => return Reading::Refused,
    }
    let fields = fields(&head);
    if !head.strip_hop_by_hop() {
        return Reading::Refused;
    }
    let mut forwarded = Vec::new();
    compose::request(&mut forwarded, &head, length, head.authority(), None);
    arriving.body(head_length, length, forwarded, |passed| Passed {
        target: head.target().to_vec(),
        authority: head.authority().to_vec(),
        fields,
        ..passed
    })
}

/// Reads the response that `input` begins with; `to_head` if a HEAD request asked for it.
pub fn response(input: &[u8], to_head: bool, sizes: &mut dyn Iterator<Item = usize>) -> Reading<Passed> {
    let mut arriving = Arriving { input, end: 0, sizes };
    let mut head = Head::default();
    let head_length = match arriving.head() {
        Reading::Complete(length) => length,
        Reading::Incomplete => return Reading::Incomplete,
        Reading::Refused => return Reading::Refused,
    };
    if parse::response(&input[..head_length], &mut head, parse::MAX_FIELDS).is_err() || head.status == 101 {
        return Reading::Refused;
    }
    let method = if to_head { Method::Head } else { Method::Get };
    let Ok(length) = framing::of_response(&head, method) else { return Reading::Refused };
    let fields = fields(&head);
    let _ = head.strip_hop_by_hop();
    let mut forwarded = Vec::new();
    // To a client of HTTP/1.1, what ends with the connection is chunked.
    let sent = if length == BodyLength::UntilClose { BodyLength::Chunked } else { length };
    if head.status < 200 {
        compose::interim(&mut forwarded, &head, None);
    } else {
        compose::response(&mut forwarded, &head, sent, (Version::Http11, method), false);
    }
    arriving.body(head_length, length, forwarded, |passed| Passed { fields, ..passed })
}

/// Reads the chunked body that `input` begins with.
pub fn chunked(input: &[u8], sizes: &mut dyn Iterator<Item = usize>) -> Reading<Unchunked> {
    let mut arriving = Arriving { input, end: 0, sizes };
    match arriving.body(0, BodyLength::Chunked, Vec::new(), |passed| passed) {
        Reading::Complete(Passed { consumed, body, trailers, .. }) => {
            Reading::Complete(Unchunked { consumed, body, trailers })
        }
        Reading::Incomplete => Reading::Incomplete,
        Reading::Refused => Reading::Refused,
    }
}

/// The normal form of a request target; `None` if it has none.
pub fn normal_path(target: &[u8], normalize: bool, merge_slashes: bool, slashes: Slashes) -> Option<Vec<u8>> {
    let escaped_slashes = match slashes {
        Slashes::Keep => EscapedSlashes::Keep,
        Slashes::Reject => EscapedSlashes::Reject,
        Slashes::Unescape => EscapedSlashes::Unescape,
    };
    let normal = PathRules { normalize, merge_slashes, escaped_slashes }.apply(target).ok()?;
    Some(normal.unwrap_or_else(|| target.to_vec()))
}

/// The PROXY protocol header that `input` begins with; `None` if it begins with something else.
pub fn proxy_header(input: &[u8]) -> Reading<Option<Introduced>> {
    match proxy_protocol::read::parse(input) {
        Parsed::Incomplete => Reading::Incomplete,
        Parsed::Malformed(_) => Reading::Refused,
        Parsed::Absent => Reading::Complete(None),
        Parsed::Header { length, addresses, .. } => {
            let addresses = addresses.map(|addresses| (addresses.source, addresses.destination));
            Reading::Complete(Some((length, addresses)))
        }
    }
}

/// The ClientHello of at most `limit` bytes that `input` begins with; `None` if it begins with something else.
pub fn client_hello(
    input: &[u8],
    limit: usize,
    sizes: &mut dyn Iterator<Item = usize>,
) -> Reading<Option<Asked>> {
    let mut arriving = Arriving { input, end: 0, sizes };
    let mut inspector = Inspector::new(limit);
    loop {
        match inspector.look(&input[..arriving.end]) {
            Verdict::Unclear if arriving.more() => {}
            Verdict::Unclear => return Reading::Incomplete,
            Verdict::TooLarge => return Reading::Refused,
            Verdict::NotTls => return Reading::Complete(None),
            Verdict::Hello(hello) => {
                return Reading::Complete(Some((hello.server_name, hello.application_protocols)));
            }
        }
    }
}

fn fields(head: &Head) -> Vec<(Vec<u8>, Vec<u8>)> {
    head.fields().map(|(_, name, value)| (name.to_vec(), value.to_vec())).collect()
}

// === impl Arriving ===

impl Arriving<'_> {
    /// Waits for the next piece; `false` if there is none.
    fn more(&mut self) -> bool {
        if self.end == self.input.len() {
            return false;
        }
        let size = self.sizes.next().unwrap_or(usize::MAX).max(1);
        self.end = self.end.saturating_add(size).min(self.input.len());
        true
    }

    /// The length of the head.
    fn head(&mut self) -> Reading<usize> {
        let mut scan = HeadScan::default();
        loop {
            match scan.find(&self.input[..self.end]) {
                Err(_) => return Reading::Refused,
                Ok(Some(length)) => return Reading::Complete(length),
                Ok(None) if !self.more() => return Reading::Incomplete,
                Ok(None) => {}
            }
        }
    }

    /// Reads the body that begins at `start` and sends it after `forwarded`.
    fn body(
        &mut self,
        mut start: usize,
        length: BodyLength,
        mut forwarded: Vec<u8>,
        finish: impl FnOnce(Passed) -> Passed,
    ) -> Reading<Passed> {
        let mut body = Vec::new();
        let mut trailers = Trailers::new();
        match length {
            BodyLength::Empty => {}
            BodyLength::Exact(length) => {
                let Some(data) =
                    usize::try_from(length).ok().and_then(|length| self.input[start..].get(..length))
                else {
                    return Reading::Incomplete;
                };
                body.extend_from_slice(data);
                forwarded.extend_from_slice(data);
                start += data.len();
            }
            BodyLength::UntilClose => {
                let data = &self.input[start..];
                body.extend_from_slice(data);
                if !data.is_empty() {
                    put_chunk(&mut forwarded, data);
                }
                compose::last_chunk(&mut forwarded, &trailers);
                start = self.input.len();
            }
            BodyLength::Chunked => {
                let mut decoder = Decoder::default();
                loop {
                    match decoder.decode(&self.input[start..self.end]) {
                        Err(_) => return Reading::Refused,
                        Ok(Found::More) if !self.more() => return Reading::Incomplete,
                        Ok(Found::More) => {}
                        Ok(Found::Skip(count)) => start += count,
                        Ok(Found::Data(count)) => {
                            let data = &self.input[start..start + count];
                            body.extend_from_slice(data);
                            put_chunk(&mut forwarded, data);
                            decoder.consumed(count);
                            start += count;
                        }
                        Ok(Found::End(count)) => {
                            if parse::trailers(&self.input[start..start + count], &mut trailers).is_err() {
                                return Reading::Refused;
                            }
                            start += count;
                            break;
                        }
                    }
                }
                compose::last_chunk(&mut forwarded, &trailers);
            }
        }
        let (target, authority, fields) = Default::default();
        let passed = Passed { consumed: start, forwarded, target, authority, fields, body, trailers };
        Reading::Complete(finish(passed))
    }
}

fn put_chunk(out: &mut Vec<u8>, data: &[u8]) {
    compose::chunk_start(out, data.len());
    out.extend_from_slice(data);
    compose::chunk_end(out);
}
