//! Frames that make a message (RFC 9113 8), and limits.

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let post =
        |fields: &[(&str, &str)], flags| frame(HEADERS, END_HEADERS | flags, 1, &request("POST", fields));
    vec![
        // 8.1
        (
            "a second HEADERS without END_STREAM",
            vec![open(1), frame(HEADERS, END_HEADERS, 1, &block(&[("x", "1")]))],
            Malformed,
        ),
        // 8.2
        ("a name in capitals", vec![with(&[("X-A", "1")])], Malformed),
        ("a name with a colon inside", vec![with(&[("x:a", "1")])], Malformed),
        ("a name with a space", vec![with(&[("x a", "1")])], Malformed),
        ("an empty name", vec![with(&[("", "1")])], Malformed),
        ("CRLF in a value", vec![with(&[("x", "1\r\nhost: evil")])], Malformed),
        ("NUL in a value", vec![with(&[("x", "1\0")])], Malformed),
        ("CRLF in a name", vec![with(&[("x\r\ny", "1")])], Malformed),
        ("white space before a value", vec![with(&[("x", " 1")])], Malformed),
        ("white space after a value", vec![with(&[("x", "1\t")])], Malformed),
        ("connection", vec![with(&[("connection", "close")])], Malformed),
        ("transfer-encoding", vec![with(&[("transfer-encoding", "chunked")])], Malformed),
        ("upgrade", vec![with(&[("upgrade", "h2c")])], Malformed),
        ("keep-alive", vec![with(&[("keep-alive", "1")])], Malformed),
        ("proxy-connection", vec![with(&[("proxy-connection", "close")])], Malformed),
        ("te that is not trailers", vec![with(&[("te", "trailers, deflate")])], Malformed),
        // 8.3
        ("an unknown pseudo-field", vec![with(&[(":x", "1")])], Malformed),
        (
            ":status in a request",
            vec![malformed(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":status", "200")])],
            Malformed,
        ),
        (
            "a pseudo-field after others",
            vec![malformed(&[(":method", "GET"), (":scheme", "http"), ("x", "1"), (":path", "/")])],
            Malformed,
        ),
        (
            "no :method",
            vec![malformed(&[(":scheme", "http"), (":path", "/"), (":authority", "w")])],
            Malformed,
        ),
        (
            "no :scheme",
            vec![malformed(&[(":method", "GET"), (":path", "/"), (":authority", "w")])],
            Malformed,
        ),
        (
            "no :path",
            vec![malformed(&[(":method", "GET"), (":scheme", "http"), (":authority", "w")])],
            Malformed,
        ),
        (
            "an empty :path",
            vec![malformed(&[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "w")])],
            Malformed,
        ),
        (
            "a :path that is none",
            vec![malformed(&[(":method", "GET"), (":scheme", "http"), (":path", "a"), (":authority", "w")])],
            Malformed,
        ),
        (
            "a space in :path",
            vec![malformed(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/a HTTP/1.1"),
                (":authority", "w"),
            ])],
            Malformed,
        ),
        (
            "CRLF in :path",
            vec![malformed(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/\r\nx: y"),
                (":authority", "w"),
            ])],
            Malformed,
        ),
        (
            "a :method with a space",
            vec![malformed(&[
                (":method", "GET /x"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "w"),
            ])],
            Malformed,
        ),
        (
            "a :scheme that is a URL",
            vec![malformed(&[
                (":method", "GET"),
                (":scheme", "http://evil/?"),
                (":path", "/"),
                (":authority", "w"),
            ])],
            Malformed,
        ),
        ("two :method", vec![with(&[(":method", "GET")])], Malformed),
        (
            "two :path",
            vec![malformed(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":path", "/"),
                (":authority", "w"),
            ])],
            Malformed,
        ),
        (
            "two :authority",
            vec![malformed(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "w"),
                (":authority", "w"),
            ])],
            Malformed,
        ),
        (
            "user information in :authority",
            vec![malformed(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a@w"),
            ])],
            Malformed,
        ),
        ("a host that is not the authority", vec![with(&[("host", "other")])], Malformed),
        (
            "two hosts and no authority",
            vec![malformed(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                ("host", "w"),
                ("host", "w"),
            ])],
            Malformed,
        ),
        (
            "no authority at all",
            vec![malformed(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])],
            Malformed,
        ),
        (
            ":protocol where it is not offered",
            vec![malformed(&[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "w"),
            ])],
            Malformed,
        ),
        // 8.1.1
        ("a length and no body", vec![post(&[("content-length", "1")], END_STREAM)], Malformed),
        (
            "less than was declared",
            vec![post(&[("content-length", "3")], 0), frame(DATA, END_STREAM, 1, b"ab")],
            Malformed,
        ),
        (
            "more than was declared",
            vec![post(&[("content-length", "1")], 0), frame(DATA, END_STREAM, 1, b"ab")],
            Malformed,
        ),
        (
            "more than was declared, in two frames",
            vec![
                post(&[("content-length", "1")], 0),
                frame(DATA, 0, 1, b"a"),
                frame(DATA, END_STREAM, 1, b"b"),
            ],
            Malformed,
        ),
        (
            "less than was declared, and trailers",
            vec![
                post(&[("content-length", "3")], 0),
                frame(DATA, 0, 1, b"ab"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x", "1")])),
            ],
            Malformed,
        ),
        (
            "two lengths that differ",
            vec![post(&[("content-length", "1"), ("content-length", "2")], 0)],
            Malformed,
        ),
        ("a length that is no number", vec![post(&[("content-length", "+1")], 0)], Malformed),
        ("a list of lengths", vec![post(&[("content-length", "1, 1")], 0)], Malformed),
        // limits
        ("a head of 100 KiB", vec![large_head(100 * 1024)], Stream(&[CALM, REFUSED, PROTOCOL])),
    ]
}

/// A request with a field for every 10,000 bytes, over as many frames as that takes.
fn large_head(size: usize) -> Vec<u8> {
    let value = "a".repeat(10_000);
    let names: Vec<String> = (0..size / 10_000).map(|index| format!("x-{index}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    let block = request("GET", &fields);
    let mut frames = Vec::new();
    let last = block.len().div_ceil(16_000) - 1;
    for (index, piece) in block.chunks(16_000).enumerate() {
        let end = if index == last { END_HEADERS } else { 0 };
        let (kind, flags) = if index == 0 { (HEADERS, END_STREAM | end) } else { (CONTINUATION, end) };
        frames.extend(frame(kind, flags, 3, piece));
    }
    frames
}
