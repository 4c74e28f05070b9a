//! What RFC 9113 and RFC 7541 say about frames that are wrong: a table in the order of h2spec's sections.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{
    Upstream,
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, GOAWAY, HEADERS, PADDED, PING, PRIORITIZED,
        PRIORITY, PUSH_PROMISE, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, block, frame, get, request,
    },
    simple,
};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

/// What must follow.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// The connection ends with one of these.
    Connection(&'static [u32]),
    /// The stream ends with one of these, or the connection does: a stream error may be treated as one of the connection.
    Stream(&'static [u32]),
    /// The stream is reset or answered with 400: a malformed message (RFC 9113 8.1.1).
    Malformed,
    /// Nothing happened: the connection goes on.
    Fine,
}

use Expect::{Connection, Fine, Malformed, Stream};

/// For sizes of frames h2 says PROTOCOL_ERROR where FRAME_SIZE_ERROR would be exact; that the connection ends is the point.
const SIZE: Expect = Connection(&[FRAME_SIZE, PROTOCOL]);
/// The same for header blocks that cannot be decoded.
const CODING: Expect = Connection(&[COMPRESSION, PROTOCOL]);

fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", &[]))
}

fn malformed(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", fields))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
}

fn raw_block(bytes: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, bytes)
}

fn connection_cases() -> Vec<(&'static str, Vec<Vec<u8>>, Expect)> {
    let half = frame(HEADERS, END_STREAM, 1, &request("GET", &[]));
    vec![
        // 4.1, 5.5
        ("a frame of unknown type", vec![frame(0x16, 0, 0, &[0; 8])], Fine),
        ("unknown flags on a PING", vec![frame(PING, 0x16, 0, &[0; 8])], Fine),
        (
            "an unknown frame inside a header block",
            vec![half.clone(), frame(0x16, 0, 0, &[0; 8])],
            Connection(&[PROTOCOL]),
        ),
        // 4.2
        ("DATA over the frame size", vec![open(1), frame(DATA, 0, 1, &[0; 16_385])], Stream(&[FRAME_SIZE])),
        ("HEADERS over the frame size", vec![frame(HEADERS, END_HEADERS, 1, &[0; 16_385])], SIZE),
        // 4.3
        ("a header block that is no HPACK", vec![raw_block(&[0x40])], CODING),
        (
            "PRIORITY inside a header block",
            vec![half.clone(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])],
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS of another stream inside a header block",
            vec![half.clone(), get(3)],
            Connection(&[PROTOCOL]),
        ),
        // 5.1
        ("DATA on an idle stream", vec![frame(DATA, END_STREAM, 1, b"x")], Connection(&[PROTOCOL])),
        (
            "RST_STREAM on an idle stream",
            vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])],
            Connection(&[PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            Connection(&[PROTOCOL]),
        ),
        (
            "CONTINUATION on an idle stream",
            vec![frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(&[PROTOCOL]),
        ),
        (
            "DATA after END_STREAM",
            vec![get(1), frame(DATA, END_STREAM, 1, b"x")],
            Stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        ("HEADERS after END_STREAM", vec![get(1), get(1)], Stream(&[STREAM_CLOSED, PROTOCOL])),
        (
            "CONTINUATION after END_STREAM",
            vec![get(1), frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        // 5.1.1
        ("an even stream number", vec![get(2)], Connection(&[PROTOCOL])),
        ("a stream number that goes back", vec![get(5), get(3)], Connection(&[PROTOCOL, STREAM_CLOSED])),
        // 5.1.2
        ("more streams than allowed", (0..101).map(|index| get(2 * index + 1)).collect(), Stream(&[REFUSED])),
        // 5.3.1
        (
            "a stream that depends on itself",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 1])],
            Stream(&[PROTOCOL]),
        ),
        (
            "HEADERS that depend on themselves",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM | PRIORITIZED,
                1,
                &[&[0, 0, 0, 1, 1][..], &request("GET", &[])].concat(),
            )],
            Stream(&[PROTOCOL]),
        ),
        // 6.1 to 6.4
        ("DATA on stream 0", vec![frame(DATA, 0, 0, b"x")], Connection(&[PROTOCOL])),
        (
            "DATA with more padding than payload",
            vec![open(1), frame(DATA, PADDED, 1, &[9, 0, 0])],
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS on stream 0",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 0, &request("GET", &[]))],
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS with more padding than payload",
            vec![frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &[200, 0x82])],
            Connection(&[PROTOCOL]),
        ),
        ("PRIORITY on stream 0", vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])], Connection(&[PROTOCOL])),
        (
            "PRIORITY of four bytes",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 3])],
            Stream(&[FRAME_SIZE, PROTOCOL]),
        ),
        ("RST_STREAM on stream 0", vec![frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])], Connection(&[PROTOCOL])),
        ("RST_STREAM of three bytes", vec![open(1), frame(RST_STREAM, 0, 1, &[0, 0, 8])], SIZE),
        // 6.5
        ("SETTINGS ACK with payload", vec![frame(SETTINGS, ACK, 0, &[0; 6])], SIZE),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])], Connection(&[PROTOCOL])),
        ("SETTINGS of three bytes", vec![frame(SETTINGS, 0, 0, &[0; 3])], SIZE),
        ("ENABLE_PUSH of 2", vec![setting(2, 2)], Connection(&[PROTOCOL])),
        ("a window beyond the limit", vec![setting(4, 1 << 31)], Connection(&[FLOW_CONTROL, PROTOCOL])),
        ("a frame size below the limit", vec![setting(5, 16_383)], Connection(&[PROTOCOL])),
        ("a frame size beyond the limit", vec![setting(5, 1 << 24)], Connection(&[PROTOCOL])),
        ("an unknown setting", vec![setting(0xff, 1)], Fine),
        // 6.6, 8.4
        (
            "PUSH_PROMISE from a client",
            vec![
                open(1),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &request("GET", &[])].concat()),
            ],
            Connection(&[PROTOCOL]),
        ),
        // 6.7
        ("PING", vec![], Fine),
        ("PING ACK that nobody asked for", vec![frame(PING, ACK, 0, &[7; 8])], Fine),
        ("PING on a stream", vec![frame(PING, 0, 1, &[0; 8])], Connection(&[PROTOCOL])),
        ("PING of six bytes", vec![frame(PING, 0, 0, &[0; 6])], SIZE),
        // 6.8
        ("GOAWAY on a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], Connection(&[PROTOCOL])),
        // 6.9
        (
            "WINDOW_UPDATE of 0 on the connection",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
            Connection(&[PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE of 0 on a stream",
            vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])],
            Stream(&[PROTOCOL]),
        ),
        ("WINDOW_UPDATE of three bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])], SIZE),
        (
            "a connection window that overflows",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
            Connection(&[FLOW_CONTROL]),
        ),
        (
            "a stream window that overflows",
            vec![open(1), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])],
            Stream(&[FLOW_CONTROL]),
        ),
        // 6.10
        (
            "CONTINUATION on stream 0",
            vec![half.clone(), frame(CONTINUATION, END_HEADERS, 0, &[])],
            Connection(&[PROTOCOL]),
        ),
        (
            "CONTINUATION after a whole block",
            vec![open(1), frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(&[PROTOCOL]),
        ),
        ("DATA inside a header block", vec![half, frame(DATA, END_STREAM, 1, b"x")], Connection(&[PROTOCOL])),
        // RFC 7541 2.3.3, 4.2, 5.2, 6.1, 6.3
        ("an index beyond the table", vec![raw_block(&[0xff, 0x70])], CODING),
        ("index 0", vec![raw_block(&[0x80])], CODING),
        ("a table size beyond the setting", vec![raw_block(&[0x3f, 0xe1, 0xff, 0x7f])], CODING),
        ("a table size in the middle of a block", vec![raw_block(&[0x82, 0x87, 0x84, 0x20])], CODING),
        ("Huffman padding of a whole byte", vec![raw_block(&[0x00, 0x81, 0xff, 0x81, 0xff])], CODING),
        ("an integer without end", vec![raw_block(&[[0xff].as_slice(), &[0xff; 20]].concat())], CODING),
    ]
}

fn message_cases() -> Vec<(&'static str, Vec<Vec<u8>>, Expect)> {
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

fn is_met(expect: Expect, fate: &Fate) -> bool {
    match (expect, fate) {
        (Connection(codes) | Stream(codes), Fate::GoAway(code)) => codes.contains(code),
        (Stream(codes), Fate::Reset(code)) => codes.contains(code),
        (Stream(codes), Fate::Status(431)) => codes.contains(&CALM),
        (Malformed, Fate::Reset(PROTOCOL) | Fate::Status(400 | 501) | Fate::GoAway(PROTOCOL)) => true,
        (Fine, Fate::Pong) => true,
        _ => false,
    }
}

async fn check(cases: Vec<(&'static str, Vec<Vec<u8>>, Expect)>) {
    // Nothing is ever answered, so that every answer is the proxy's own.
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    })
    .await;
    let proxy = simple(&[upstream.address]).await;
    let mut wrong = Vec::new();
    for (name, frames, expect) in cases {
        let mut raw = Raw::connect(proxy.at("http")).await;
        for bytes in frames {
            raw.send(&bytes).await;
        }
        if matches!(expect, Fine) {
            raw.send(&frame(PING, 0, 0, &[1; 8])).await;
        }
        let fate = raw.fate().await;
        if !is_met(expect, &fate) {
            wrong.push(format!("{name}: {fate:?} instead of {expect:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn frames_that_break_the_rules_end_their_stream_or_connection_with_the_right_code() {
    check(connection_cases()).await;
}

#[tokio::test]
async fn messages_that_are_malformed_never_reach_an_upstream() {
    check(message_cases()).await;
}

#[tokio::test]
async fn what_looks_odd_and_is_allowed_passes() {
    let upstream = Upstream::scripted(|mut stream, _| async move {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let proxy = simple(&[upstream.address]).await;
    for (name, frames) in [
        (
            "padding",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM | PADDED,
                1,
                &[&[3][..], &request("GET", &[]), &[0; 3]].concat(),
            )],
        ),
        (
            "a priority",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM | PRIORITIZED,
                1,
                &[&[0, 0, 0, 0, 9][..], &request("GET", &[])].concat(),
            )],
        ),
        ("a block in pieces", {
            let block = request("GET", &[]);
            let (first, second) = block.split_at(7);
            vec![frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, END_HEADERS, 1, second)]
        }),
        (
            "trailers",
            vec![
                open(1),
                frame(DATA, 0, 1, b"ab"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x", "1")])),
            ],
        ),
        ("te: trailers", vec![with(&[("te", "trailers")])]),
        ("a host that is the authority", vec![with(&[("host", "w")])]),
        (
            "a host and no authority",
            vec![malformed(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "w")])],
        ),
        (
            "the right length",
            vec![
                frame(HEADERS, END_HEADERS, 1, &request("POST", &[("content-length", "2")])),
                frame(DATA, END_STREAM, 1, b"ab"),
            ],
        ),
        ("a stream number that leaves some out", vec![get(7)]),
        ("a new table size first", vec![raw_block(&[&[0x20][..], &request("GET", &[])].concat())]),
    ] {
        let mut raw = Raw::connect(proxy.at("http")).await;
        for bytes in frames {
            raw.send(&bytes).await;
        }
        assert_eq!(raw.fate().await, Fate::Status(200), "{name}");
    }
}

#[tokio::test]
async fn a_request_that_was_answered_before_its_end_may_end_in_peace() {
    let up = Upstream::scripted(|mut stream, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            head.push(byte);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntaken").await;
        // Until the proxy is done with it: its end is not what is tested here.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let proxy = simple(&[up.address]).await;
    let mut raw = Raw::connect(proxy.at("http")).await;
    let ping = frame(PING, 0, 0, &[7; 8]);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &request("POST", &[]))).await;
    assert_eq!(raw.fate().await, Fate::Status(200));
    raw.send(&ping).await;
    assert_eq!(raw.fate().await, Fate::Pong, "no reset follows the answer at once");
    raw.send(&[frame(DATA, END_STREAM, 1, b"x"), ping].concat()).await;
    assert_eq!(raw.fate().await, Fate::Pong, "nor after the request ended");
    // One that goes on and on is told that it is enough.
    raw.send(&frame(HEADERS, END_HEADERS, 3, &request("POST", &[]))).await;
    assert_eq!(raw.fate().await, Fate::Status(200));
    assert_eq!(raw.fate().await, Fate::Reset(0));
}
