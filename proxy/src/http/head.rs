//! The request and response head that everything above the codecs works on.
//!
//! One [`Head`] lives as long as its connection and is refilled for each message, so that a message costs no
//! allocation: the text is copied once and everything else is a span of it. Both codecs fill it and both write from it.

mod copy;
mod hop;
mod known;
mod method;

use std::fmt;

use self::known::{Seen, classify};
pub(crate) use self::{known::Known, method::Method};

/// A head that needed more room than this does not keep it.
const LARGE: usize = 16 * 1024;

/// A piece of [`Head::text`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn end(self) -> u32 {
        self.start + self.len
    }

    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }
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
    /// Whether the text around it reads `name: value\r\n`, so that it can be written as it stands.
    line: bool,
}

/// A message head; see the [module](self).
#[derive(Clone, Default)]
pub(crate) struct Head {
    /// All text of the head; only grows while a message is handled.
    text: Vec<u8>,
    fields: Vec<Field>,
    /// What kinds of fields there are or were: most questions are about one that is not.
    seen: Seen,
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
        self.seen = Seen::default();
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
        &self.text[span.start as usize..span.end() as usize]
    }

    /// Adds a field whose text is in place already.
    pub(crate) fn push_spans(&mut self, name: Span, value: Span) {
        let known = classify(self.get_span(name));
        self.seen.add(known);
        let line = value.start == name.end() + 2
            && self.text[name.end() as usize..].starts_with(b": ")
            && self.text[value.end() as usize..].starts_with(b"\r\n");
        self.fields.push(Field { name, value, known, removed: false, line });
    }

    /// Adds a field at the end.
    pub(crate) fn append(&mut self, name: &[u8], value: &[u8]) {
        self.text.reserve(name.len() + value.len() + 4);
        let known = classify(name);
        let name = self.intern(name);
        self.text.extend_from_slice(b": ");
        let value = self.intern(value);
        self.text.extend_from_slice(b"\r\n");
        self.seen.add(known);
        self.fields.push(Field { name, value, known, removed: false, line: true });
    }

    /// Makes all fields of this name one, a list, with a further member.
    pub(crate) fn append_to_list(&mut self, name: &[u8], member: &[u8]) {
        let mut list = Vec::new();
        for value in self.get_all(name) {
            list.extend_from_slice(value);
            list.push(b',');
        }
        list.extend_from_slice(member);
        self.set(name, &list);
    }

    /// Replaces every field of this name by one.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.append(name, value);
    }

    /// Removes every field of this name.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        match classify(name) {
            Known::Other => {}
            known => return self.remove_known(known),
        }
        for index in 0..self.fields.len() {
            if self.get_span(self.fields[index].name).eq_ignore_ascii_case(name) {
                self.fields[index].removed = true;
            }
        }
    }

    /// Removes every field whose name, in lower case, is one that `matches`.
    pub(crate) fn remove_matching(&mut self, matches: impl Fn(&[u8]) -> bool) {
        for index in 0..self.fields.len() {
            let name = self.get_span(self.fields[index].name).to_ascii_lowercase();
            self.fields[index].removed |= self.fields[index].known != Known::Host && matches(&name);
        }
    }

    /// Removes every field with an underscore in its name; whether there was one.
    pub(crate) fn remove_underscored(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.fields.len() {
            if memchr::memchr(b'_', self.get_span(self.fields[index].name)).is_some() {
                self.fields[index].removed = true;
                any = true;
            }
        }
        any
    }

    /// Removes every field of a known name.
    pub(crate) fn remove_known(&mut self, known: Known) {
        if self.seen.has(known) {
            self.fields
                .iter_mut()
                .filter(|field| field.known == known)
                .for_each(|field| field.removed = true);
        }
    }

    /// Name and value of every field that is not removed.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.fields
            .iter()
            .filter(|field| !field.removed)
            .map(|field| (field.known, self.get_span(field.name), self.get_span(field.value)))
    }

    /// Appends the lines of all fields that are not removed and that `skip` does not name. What is next to each other
    /// in the text goes in one piece: usually most of the head.
    pub(crate) fn write_fields(&self, out: &mut Vec<u8>, skip: impl Fn(Known) -> bool) {
        let mut run = 0..0;
        for field in &self.fields {
            if field.removed || (field.known != Known::Other && skip(field.known)) {
                continue;
            }
            let line = field.name.start as usize..field.value.end() as usize + 2;
            if field.line && run.end == line.start {
                run.end = line.end;
                continue;
            }
            out.extend_from_slice(&self.text[run]);
            if field.line {
                run = line;
            } else {
                run = 0..0;
                write_field(out, self.get_span(field.name), self.get_span(field.value));
            }
        }
        out.extend_from_slice(&self.text[run]);
    }

    /// The first value of a known field.
    pub(crate) fn known(&self, known: Known) -> Option<&[u8]> {
        self.candidates(known)
            .iter()
            .find(|field| field.known == known && !field.removed)
            .map(|field| self.get_span(field.value))
    }

    /// The values of a known field.
    pub(crate) fn all_known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.known_spans(known).map(|value| self.get_span(value))
    }

    /// Where the values of a known field are.
    pub(crate) fn known_spans(&self, known: Known) -> impl Iterator<Item = Span> {
        let fields = self.candidates(known).iter();
        fields.filter(move |field| field.known == known && !field.removed).map(|field| field.value)
    }

    /// The fields among which one of this kind may be: all or none.
    fn candidates(&self, known: Known) -> &[Field] {
        if self.seen.has(known) { &self.fields } else { &[] }
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

/// The members of a comma-separated list, trimmed; empty ones left out.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Appends the line of a field.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
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
        assert!(!head.strip_hop_by_hop(), "nobody nominates the host in good faith");
        assert_eq!(names(&head), ["Host", "Content-Length", "Accept"]);
    }

    #[test]
    fn nominations_are_honest_unless_they_hide_who_asks() {
        for (value, honest) in [
            ("close", true),
            ("X-Own, keep-alive", true),
            ("x-forwarded-FOR", false),
            ("close,X-Forwarded-Proto", false),
            (":path", false),
        ] {
            assert_eq!(head(&[("Connection", value)]).strip_hop_by_hop(), honest, "{value}");
        }
    }

    #[test]
    fn fields_are_written_as_they_stand_and_mended_where_they_are_not_lines() {
        let raw = b"GET / HTTP/1.1\r\nA: 1\r\nB:2\r\nC: 3 \r\nD: 4\r\nhost: x\r\nE: 5\r\n\r\n";
        let mut head = Head::default();
        crate::http::h1::parse::request(raw, &mut head, 10).expect("a request");
        head.remove(b"d");
        head.append(b"f", b"6");
        head.append(b"g", b"");
        let mut out = Vec::new();
        head.write_fields(&mut out, |known| known == Known::Host);
        assert_eq!(String::from_utf8_lossy(&out), "A: 1\r\nB: 2\r\nC: 3\r\nE: 5\r\nf: 6\r\ng: \r\n");
    }

    #[test]
    fn known_fields_are_known_in_any_case_and_nothing_like_them_is() {
        assert_eq!(classify(b"Transfer-ENCODING"), Known::TransferEncoding);
        assert_eq!(classify(b"transfer_encoding"), Known::Other);
        assert_eq!(classify(b"hose"), Known::Other);
        assert_eq!(classify(b""), Known::Other);
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
