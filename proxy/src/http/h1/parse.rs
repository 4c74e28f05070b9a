//! Complete message heads, from bytes to [`Head`], strictly.

use std::mem::MaybeUninit;

use crate::http::{
    exchange::Reason,
    head::{Head, Known, Method, Span, Version},
};

/// Most header fields a message may have; Envoy's default.
pub(crate) const DEFAULT_MAX_FIELDS: usize = 100;
/// The most that the configuration may raise it to.
pub(crate) const MAX_FIELDS: usize = 256;

/// Why a head is refused. The status is the answer to a client; from an upstream each of these is a 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("malformed message head")]
    Malformed,
    #[error("HTTP version not supported")]
    Version,
    #[error("too many header fields")]
    TooManyFields,
    #[error("invalid request target")]
    Target,
    #[error("missing, repeated or invalid host")]
    Host,
    #[error("CONNECT is not configured")]
    Connect,
    /// `get` is not GET, but a lenient upstream may think so, and then the two of us count bytes differently.
    #[error("method not in capital letters")]
    Method,
    #[error("invalid response status")]
    Status,
}

impl ParseError {
    /// The status that tells a client what was wrong.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Version => 505,
            Self::TooManyFields => 431,
            Self::Connect => 405,
            Self::Malformed | Self::Target | Self::Host | Self::Status | Self::Method => 400,
        }
    }

    /// What the access log and the metrics say about it.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Malformed | Self::Status | Self::Method => Reason::Http1Codec,
            Self::Version => Reason::HttpVersion,
            Self::TooManyFields => Reason::TooManyHeaders,
            Self::Target => Reason::Http1Url,
            Self::Host => Reason::MissingHost,
            Self::Connect => Reason::Connect,
        }
    }
}

/// Reads the request head that is all of `raw`.
pub(crate) fn request(raw: &[u8], head: &mut Head, max_fields: usize) -> Result<(), ParseError> {
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let slots = &mut fields[..max_fields.min(MAX_FIELDS)];
    match httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, raw, slots) {
        Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
        Ok(_) => return Err(ParseError::Malformed),
        // "GET /a b HTTP/1.1" has a space too many, not a version that is too new.
        Err(httparse::Error::Version) if !names_version(raw) => return Err(ParseError::Malformed),
        Err(error) => return Err(parse_error(error)),
    }
    head.reset(raw);
    head.version = version(parsed.version);
    let (method, target) = (parsed.method.unwrap_or("").as_bytes(), parsed.path.unwrap_or("").as_bytes());
    head.set_method(Method::parse(method), Head::span_of(raw, method));
    push_fields(raw, head, parsed.headers)?;
    match head.method {
        Method::Connect => return read_destination(raw, target, head),
        Method::Other if method.iter().any(u8::is_ascii_lowercase) => return Err(ParseError::Method),
        _ => {}
    }
    read_target(raw, target, head)
}

/// Reads the response head that is all of `raw`.
pub(crate) fn response(raw: &[u8], head: &mut Head, max_fields: usize) -> Result<(), ParseError> {
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let slots = &mut fields[..max_fields.min(MAX_FIELDS)];
    // The parser skips empty lines; before a response there is no reason for one but bytes too many before it.
    if matches!(raw.first(), Some(b'\r' | b'\n')) {
        return Err(ParseError::Malformed);
    }
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, raw, slots) {
        Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
        Ok(_) => return Err(ParseError::Malformed),
        Err(error) => return Err(parse_error(error)),
    }
    let status = parsed.code.unwrap_or(0);
    if !(100..=599).contains(&status) {
        return Err(ParseError::Status);
    }
    head.reset(raw);
    head.version = version(parsed.version);
    head.set_status(status, Head::span_of(raw, parsed.reason.unwrap_or("").as_bytes()));
    push_fields(raw, head, parsed.headers)
}

/// Reads trailer lines (with the empty last line) and appends those that may be forwarded to `into`.
///
/// Fields about framing, routing or authentication are dropped: as a trailer each is a smuggling attempt at worst and
/// meaningless at best (RFC 9110 6.5.1).
pub(crate) fn trailers(raw: &[u8], into: &mut Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), ParseError> {
    let mut fields = [httparse::EMPTY_HEADER; DEFAULT_MAX_FIELDS];
    let parsed = match httparse::parse_headers(raw, &mut fields) {
        Ok(httparse::Status::Complete((length, parsed))) if length == raw.len() => parsed,
        Ok(_) => return Err(ParseError::Malformed),
        Err(error) => return Err(parse_error(error)),
    };
    for field in parsed {
        if may_be_trailer(field.name.as_bytes()) {
            into.push((field.name.as_bytes().to_vec(), field.value.to_vec()));
        }
    }
    Ok(())
}

/// Whether a field of this name may come after the body.
pub(crate) fn may_be_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: &[&str] = &[
        "transfer-encoding",
        "content-length",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "content-encoding",
        "content-type",
        "content-range",
        "expect",
        "max-forwards",
        "cache-control",
        "www-authenticate",
        "proxy-authenticate",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-request-id",
    ];
    !FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

/// Whether this is the authority of a URI without user information (RFC 3986 3.2): a name or an address, and a port if
/// there is one.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    let port = match text.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = memchr::memchr(b']', literal) else { return false };
            let address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if end == 0 || !literal[..end].iter().all(address) {
                return false;
            }
            &literal[end + 1..]
        }
        None => {
            let end = memchr::memchr(b':', text).unwrap_or(text.len());
            if end == 0 || !text[..end].iter().all(is_name_byte) {
                return false;
            }
            &text[end..]
        }
    };
    match port.split_first() {
        None | Some((b':', [])) => true,
        Some((b':', digits)) => {
            // No more digits than the largest port has: the sum cannot overflow.
            digits.len() <= 5
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')) <= 65535
        }
        Some(_) => false,
    }
}

/// Unreserved characters, sub-delimiters and the percent sign: what a registered name is made of.
fn is_name_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')')
        || matches!(byte, b'*' | b'+' | b';' | b'=')
}

fn parse_error(error: httparse::Error) -> ParseError {
    match error {
        httparse::Error::Version => ParseError::Version,
        httparse::Error::TooManyHeaders => ParseError::TooManyFields,
        httparse::Error::Status => ParseError::Status,
        _ => ParseError::Malformed,
    }
}

/// Whether the third word of the first line is a version of HTTP.
fn names_version(raw: &[u8]) -> bool {
    raw.split(|byte| *byte == b' ').nth(2).is_some_and(|word| word.starts_with(b"HTTP/"))
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::Http10 } else { Version::Http11 }
}

fn push_fields(raw: &[u8], head: &mut Head, fields: &[httparse::Header<'_>]) -> Result<(), ParseError> {
    for field in fields {
        if field.name.is_empty() {
            return Err(ParseError::Malformed);
        }
        head.push_spans(Head::span_of(raw, field.name.as_bytes()), Head::span_of(raw, field.value));
    }
    Ok(())
}

/// Sets target and authority from the request line and `Host` (RFC 9112 3.2).
fn read_target(raw: &[u8], target: &[u8], head: &mut Head) -> Result<(), ParseError> {
    if target.iter().any(|byte| matches!(byte, b'#' | b' ' | 0x7f..) || *byte < b' ') {
        return Err(ParseError::Target);
    }
    let host = read_host(head)?;
    if target.starts_with(b"/") {
        head.set_target(Head::span_of(raw, target));
        head.set_authority(host);
        return Ok(());
    }
    if target == b"*" && head.method == Method::Options {
        head.set_target(Head::span_of(raw, target));
        head.set_authority(host);
        return Ok(());
    }
    // Absolute form: its authority replaces Host, whatever Host says.
    let rest = strip_scheme(target).ok_or(ParseError::Target)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_authority(authority) {
        return Err(ParseError::Target);
    }
    head.set_authority(Head::span_of(raw, authority));
    let target = match path.first() {
        Some(b'/') => Head::span_of(raw, path),
        _ => head.intern(&[b"/", path].concat()),
    };
    head.set_target(target);
    Ok(())
}

/// Sets the authority from the target of a CONNECT, which is nothing else and names a port (RFC 9110 9.3.6). As in the
/// absolute form, it replaces `Host`.
fn read_destination(raw: &[u8], target: &[u8], head: &mut Head) -> Result<(), ParseError> {
    read_host(head)?;
    let names_port = target
        .iter()
        .rposition(|byte| *byte == b':')
        .is_some_and(|colon| colon + 1 < target.len() && target[colon + 1..].iter().all(u8::is_ascii_digit));
    if !names_port || !is_authority(target) {
        return Err(ParseError::Target);
    }
    head.set_authority(Head::span_of(raw, target));
    Ok(())
}

fn read_host(head: &Head) -> Result<Span, ParseError> {
    let mut hosts = head.known_spans(Known::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_authority(head.get_span(host)) => Ok(host),
        (None, _) if head.version == Version::Http10 => Ok(Span::default()),
        _ => Err(ParseError::Host),
    }
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    let at = target.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = target.split_at(at);
    (scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")).then_some(())?;
    rest.strip_prefix(b"://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, ParseError> {
        let mut head = Head::default();
        request(text.as_bytes(), &mut head, DEFAULT_MAX_FIELDS).map(|()| head)
    }

    #[test]
    fn reads_the_forms_of_a_target() {
        let head = parse("GET /a?b=c HTTP/1.1\r\nHost: x:80\r\n\r\n").expect("origin form");
        assert_eq!(
            (head.target(), head.path(), head.authority()),
            (&b"/a?b=c"[..], &b"/a"[..], &b"x:80"[..])
        );
        let head = parse("GET http://y?q HTTP/1.1\r\nHost: x\r\n\r\n").expect("absolute form");
        assert_eq!((head.target(), head.authority()), (&b"/?q"[..], &b"y"[..]));
        let head = parse("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").expect("asterisk form");
        assert_eq!(head.target(), b"*");
        let head = parse("CONNECT a:443 HTTP/1.1\r\nHost: b\r\n\r\n").expect("authority form");
        assert_eq!((head.target(), head.authority()), (&b""[..], &b"a:443"[..]));
    }

    #[test]
    fn refuses_what_is_ambiguous() {
        let cases = [
            ("GET / HTTP/1.1\r\n\r\n", ParseError::Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", ParseError::Host),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", ParseError::Host),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", ParseError::Host),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", ParseError::Host),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", ParseError::Host),
            ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
            ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Malformed),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", ParseError::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", ParseError::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", ParseError::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", ParseError::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", ParseError::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nX\u{b}: b\r\n\r\n", ParseError::Malformed),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", ParseError::Version),
            ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
            ("CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
            ("CONNECT [::1] HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
            ("CONNECT u@a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", ParseError::Target),
            ("CONNECT http://a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", ParseError::Target),
            ("CONNECT /a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", ParseError::Target),
            ("CONNECT a:443 HTTP/1.1\r\n\r\n", ParseError::Host),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Method),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", ParseError::Host),
            ("GET http://a:b/ HTTP/1.1\r\nHost: a\r\n\r\n", ParseError::Target),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).expect_err(text), expected, "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(100));
        assert_eq!(parse(&many).expect_err("101 fields"), ParseError::TooManyFields);
    }

    #[test]
    fn authorities_are_a_host_and_perhaps_a_port() {
        for good in [
            "a",
            "a.b-c_d~",
            "a:80",
            "a:",
            "1.2.3.4:65535",
            "[::1]",
            "[::1]:8080",
            "[::ffff:1.2.3.4]",
            "a%20b",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a:b", "a:80:80", "a:65536", "a:123456", "a,b", "u@a", "[::1", "[]", "[g]", "[::1]x",
            "a[b]", "::1",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn nothing_comes_before_a_response() {
        let text = b"\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(response(text, &mut Head::default(), 100), Err(ParseError::Malformed));
    }

    #[test]
    fn a_status_outside_100_to_599_is_refused() {
        let mut head = Head::default();
        for status in ["000", "099", "600", "999"] {
            let text = format!("HTTP/1.1 {status} x\r\n\r\n");
            assert_eq!(response(text.as_bytes(), &mut head, 100), Err(ParseError::Status), "{status}");
        }
        assert_eq!(response(b"HTTP/1.1 599 x\r\n\r\n", &mut head, 100), Ok(()));
    }

    #[test]
    fn trailers_lose_what_must_not_come_late() {
        let mut kept = Vec::new();
        trailers(b"grpc-status: 0\r\nContent-Length: 5\r\nHost: evil\r\n\r\n", &mut kept).expect("valid");
        assert_eq!(kept, [(b"grpc-status".to_vec(), b"0".to_vec())]);
    }
}
