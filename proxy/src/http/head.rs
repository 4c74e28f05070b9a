//! The request and response head that everything above the codecs works on.
//!
//! One [`Head`] lives as long as its connection and is refilled for each message, so that a message costs no
//! allocation: the text is copied once and everything else is a span of it. Both codecs fill it and both write from it.

use std::fmt;

/// A head that needed more room than this does not keep it.
const LARGE: usize = 16 * 1024;

/// A piece of [`Head::text`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// Fields that the proxy itself has to look at; found once, when the head is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Any other field: passed on as it is.
    Other,
    Connection,
    KeepAlive,
    ProxyConnection,
    TransferEncoding,
    Te,
    Trailer,
    Upgrade,
    Http2Settings,
    ContentLength,
    Host,
    Expect,
    Cookie,
    Date,
    Server,
    ContentType,
    XForwardedFor,
    XForwardedProto,
    XRequestId,
}

/// Request methods, as far as the proxy treats them differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Connect,
    Other,
}

/// The HTTP version that a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

/// One header field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    name: Span,
    value: Span,
    pub(crate) known: Known,
    /// Taken out: not written any more. Kept in place so that removing costs nothing.
    removed: bool,
}

/// A message head; see the [module](self).
#[derive(Default)]
pub(crate) struct Head {
    /// All text of the head; only grows while a message is handled.
    text: Vec<u8>,
    fields: Vec<Field>,
    pub(crate) version: Version,
    pub(crate) method: Method,
    method_text: Span,
    /// Path and query, in origin form (or `*`).
    target: Span,
    /// Host and port that the request is for; empty only for HTTP/1.0.
    authority: Span,
    pub(crate) status: u16,
    reason: Span,
}

// === impl Head ===

impl Head {
    /// Starts over with the raw text of a message.
    pub(crate) fn reset(&mut self, raw: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(raw);
        self.fields.clear();
        self.target = Span::default();
        self.authority = Span::default();
        self.method_text = Span::default();
        self.reason = Span::default();
        self.status = 0;
    }

    /// Gives memory back that only a large head needed; to be called between messages.
    pub(crate) fn shrink(&mut self) {
        if self.text.capacity() > LARGE {
            self.text = Vec::new();
            self.fields = Vec::new();
            self.reset(b"");
        }
    }

    /// The span of `part` in the raw text that `reset` was given; both must be from the same slice.
    pub(crate) fn span_of(raw: &[u8], part: &[u8]) -> Span {
        let start = (part.as_ptr() as usize).wrapping_sub(raw.as_ptr() as usize);
        debug_assert!(part.is_empty() || start + part.len() <= raw.len());
        Span { start: if part.is_empty() { 0 } else { start as u32 }, len: part.len() as u32 }
    }

    /// Adds text and returns its span.
    pub(crate) fn intern(&mut self, text: &[u8]) -> Span {
        let start = self.text.len() as u32;
        self.text.extend_from_slice(text);
        Span { start, len: text.len() as u32 }
    }

    pub(crate) fn get_span(&self, span: Span) -> &[u8] {
        &self.text[span.start as usize..(span.start + span.len) as usize]
    }

    /// Adds a field whose text is in place already.
    pub(crate) fn push_spans(&mut self, name: Span, value: Span) {
        let known = classify(self.get_span(name));
        self.fields.push(Field { name, value, known, removed: false });
    }

    /// Adds a field at the end.
    pub(crate) fn append(&mut self, name: &[u8], value: &[u8]) {
        let name = self.intern(name);
        let value = self.intern(value);
        self.push_spans(name, value);
    }

    /// Replaces every field of this name by one.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Removes every field of this name.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        for index in 0..self.fields.len() {
            if self.get_span(self.fields[index].name).eq_ignore_ascii_case(name) {
                self.fields[index].removed = true;
            }
        }
    }

    /// Removes every field that `which` says.
    pub(crate) fn remove_known(&mut self, which: impl Fn(Known) -> bool) {
        for field in &mut self.fields {
            if field.known != Known::Other && which(field.known) {
                field.removed = true;
            }
        }
    }

    /// Name and value of every field that is not removed.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.fields
            .iter()
            .filter(|field| !field.removed)
            .map(|field| (field.known, self.get_span(field.name), self.get_span(field.value)))
    }

    /// The first value of a known field.
    pub(crate) fn known(&self, known: Known) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|field| field.known == known && !field.removed)
            .map(|field| self.get_span(field.value))
    }

    /// The values of a known field.
    pub(crate) fn all_known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |field| field.known == known && !field.removed)
            .map(|field| self.get_span(field.value))
    }

    /// The first value of the field with this name.
    pub(crate) fn get<'a>(&'a self, name: &[u8]) -> Option<&'a [u8]> {
        self.fields().find(|(_, other, _)| other.eq_ignore_ascii_case(name)).map(|(_, _, value)| value)
    }

    /// The values of the fields with this name.
    pub(crate) fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.fields().filter(|(_, n, _)| n.eq_ignore_ascii_case(name)).map(|(_, _, value)| value)
    }

    pub(crate) fn set_method(&mut self, method: Method, text: Span) {
        self.method = method;
        self.method_text = text;
    }

    pub(crate) fn method_text(&self) -> &[u8] {
        self.get_span(self.method_text)
    }

    pub(crate) fn set_target(&mut self, target: Span) {
        self.target = target;
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &[u8] {
        self.get_span(self.target)
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &[u8] {
        let target = self.target();
        &target[..memchr::memchr(b'?', target).unwrap_or(target.len())]
    }

    pub(crate) fn set_authority(&mut self, authority: Span) {
        self.authority = authority;
    }

    pub(crate) fn authority_span(&self) -> Span {
        self.authority
    }

    pub(crate) fn authority(&self) -> &[u8] {
        self.get_span(self.authority)
    }

    pub(crate) fn set_status(&mut self, status: u16, reason: Span) {
        self.status = status;
        self.reason = reason;
    }

    pub(crate) fn reason(&self) -> &[u8] {
        self.get_span(self.reason)
    }

    /// Whether the message is a gRPC one, whose errors travel as trailers with status 200.
    pub(crate) fn is_grpc(&self) -> bool {
        self.known(Known::ContentType).is_some_and(|value| {
            value
                .strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
    }

    /// Takes out the fields that are about this hop only: the fixed ones and those that `Connection` nominates.
    ///
    /// Must run before the proxy adds fields of its own: a client that nominates `x-forwarded-for` may remove what
    /// it sent itself, never what we say about it.
    pub(crate) fn strip_hop_by_hop(&mut self) {
        let mut nominated = false;
        for field in &mut self.fields {
            match field.known {
                Known::Connection => {
                    nominated = true;
                    field.removed = true;
                }
                Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Te
                | Known::Trailer
                | Known::Upgrade
                | Known::Http2Settings => field.removed = true,
                _ => {}
            }
        }
        if nominated {
            self.strip_nominated();
        }
    }

    fn strip_nominated(&mut self) {
        for index in 0..self.fields.len() {
            if self.fields[index].known != Known::Connection {
                continue;
            }
            let value = self.fields[index].value;
            let (start, end) = (value.start as usize, (value.start + value.len) as usize);
            // Fields are few and `Connection` is short: a scan for each token is cheaper than any table.
            for other in 0..self.fields.len() {
                let field = self.fields[other];
                // Host and the framing decide what the message *is*; nominating them is an attack, not a wish.
                if field.removed || matches!(field.known, Known::Host | Known::ContentLength) {
                    continue;
                }
                let name = self.get_span(field.name);
                if tokens(&self.text[start..end]).any(|token| token.eq_ignore_ascii_case(name)) {
                    self.fields[other].removed = true;
                }
            }
        }
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("version", &self.version)
            .field("method", &self.method)
            .field("target", &String::from_utf8_lossy(self.target()))
            .field("status", &self.status)
            .field("fields", &self.fields.len())
            .finish_non_exhaustive()
    }
}

// === impl Method ===

impl Method {
    pub(crate) fn parse(text: &[u8]) -> Self {
        match text {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }

    /// Whether sending the request twice means the same as sending it once (RFC 9110 9.2.2).
    pub(crate) fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Connect | Self::Other)
    }
}

/// The members of a comma-separated list, trimmed; empty ones left out.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn classify(name: &[u8]) -> Known {
    let candidates: &[(&[u8], Known)] = match name.len() {
        2 => &[(b"te", Known::Te)],
        4 => &[(b"host", Known::Host), (b"date", Known::Date)],
        6 => &[(b"cookie", Known::Cookie), (b"expect", Known::Expect), (b"server", Known::Server)],
        7 => &[(b"upgrade", Known::Upgrade), (b"trailer", Known::Trailer)],
        10 => &[(b"connection", Known::Connection), (b"keep-alive", Known::KeepAlive)],
        12 => &[(b"content-type", Known::ContentType), (b"x-request-id", Known::XRequestId)],
        14 => &[(b"content-length", Known::ContentLength), (b"http2-settings", Known::Http2Settings)],
        15 => &[(b"x-forwarded-for", Known::XForwardedFor)],
        16 => &[(b"proxy-connection", Known::ProxyConnection)],
        17 => {
            &[(b"transfer-encoding", Known::TransferEncoding), (b"x-forwarded-proto", Known::XForwardedProto)]
        }
        _ => &[],
    };
    candidates
        .iter()
        .find(|(text, _)| name.eq_ignore_ascii_case(text))
        .map_or(Known::Other, |(_, known)| *known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> Head {
        let mut head = Head::default();
        head.reset(b"");
        for (name, value) in fields {
            head.append(name.as_bytes(), value.as_bytes());
        }
        head
    }

    fn names(head: &Head) -> Vec<String> {
        head.fields().map(|(_, name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn hop_by_hop_and_nominated_fields_go_but_host_and_framing_stay() {
        let mut head = head(&[
            ("Host", "a"),
            ("Connection", "close, X-Secret , host, content-length"),
            ("X-Secret", "1"),
            ("x-SECRET", "2"),
            ("Content-Length", "3"),
            ("TE", "trailers"),
            ("Keep-Alive", "timeout=5"),
            ("Accept", "*/*"),
        ]);
        head.strip_hop_by_hop();
        assert_eq!(names(&head), ["Host", "Content-Length", "Accept"]);
    }

    #[test]
    fn set_replaces_every_copy() {
        let mut head = head(&[("a", "1"), ("A", "2"), ("b", "3")]);
        head.set(b"a", b"9");
        assert_eq!(head.get_all(b"A").collect::<Vec<_>>(), [b"9"]);
        assert_eq!(head.get(b"b"), Some(&b"3"[..]));
    }

    #[test]
    fn grpc_is_told_from_its_neighbours() {
        assert!(head(&[("content-type", "application/grpc+proto")]).is_grpc());
        assert!(!head(&[("content-type", "application/grpc-web")]).is_grpc());
    }
}
