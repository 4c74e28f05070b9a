//! What RFC 9113 and RFC 7541 say about frames that are wrong: a table in the order of h2spec's sections.

mod connection;
mod message;

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

/// What it is, what is sent, and what must follow.
type Case = (&'static str, Vec<Vec<u8>>, Expect);

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

async fn check(cases: Vec<Case>) {
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
    check(connection::cases()).await;
}

#[tokio::test]
async fn messages_that_are_malformed_never_reach_an_upstream() {
    check(message::cases()).await;
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
