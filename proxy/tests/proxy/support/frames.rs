//! HTTP/2 by hand: frames as bytes, for what no proper library lets one send.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITIZED: u8 = 0x20;

/// One frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection that has said hello.
pub(crate) struct Raw {
    reader: Reader,
    writer: Writer,
}

/// What the proxy says.
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
}

/// What is said to it.
pub(crate) struct Writer(OwnedWriteHalf);

/// What became of a stream or its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// GOAWAY with this code.
    GoAway(u32),
    /// RST_STREAM with this code.
    Reset(u32),
    /// A response with this `:status`.
    Status(u16),
    /// The acknowledgement of a PING.
    Pong,
    /// The connection ended without a word.
    Closed,
    Nothing,
}

/// A frame as bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut bytes = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields in HPACK, each as a literal without indexing.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// An HPACK integer with a prefix of seven bits.
fn integer(bytes: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        bytes.push(value as u8);
        return;
    }
    bytes.push(127);
    value -= 127;
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
}

/// The pseudo-fields of a request, followed by these.
pub(crate) fn request(method: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "w")];
    all.extend_from_slice(fields);
    block(&all)
}

/// A whole request without body, as a frame.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", &[]))
}

impl Raw {
    /// Connects and exchanges settings.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[]).await
    }

    /// As [`Raw::connect`], with settings of its own.
    pub(crate) async fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let (stream, writer) = TcpStream::connect(address).await.expect("connects").into_split();
        let reader = Reader { stream, buffer: Vec::new() };
        let mut raw = Self { reader, writer: Writer(writer) };
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        raw.send(PREFACE).await;
        raw.send(&frame(SETTINGS, 0, 0, &payload)).await;
        raw.send(&frame(SETTINGS, ACK, 0, &[])).await;
        raw
    }

    /// Sends bytes; that the proxy is gone already is for the reader to find out.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.writer.send(bytes).await;
    }

    pub(crate) fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// The first thing that tells what became of what was sent.
    pub(crate) async fn fate(&mut self) -> Fate {
        self.reader.fate().await
    }
}

impl Writer {
    /// Whether the connection still took it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }
}

impl Reader {
    /// How the connection ends.
    pub(crate) async fn end(&mut self) -> Fate {
        loop {
            match self.fate().await {
                fate @ (Fate::GoAway(_) | Fate::Closed | Fate::Nothing) => return fate,
                Fate::Reset(_) | Fate::Status(_) | Fate::Pong => {}
            }
        }
    }

    /// The next frame; none if the connection ended or nothing came for two seconds.
    async fn next(&mut self) -> Result<Frame, Fate> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer[9..9 + length].to_vec();
                    self.buffer.drain(..9 + length);
                    return Ok(Frame { kind, flags, stream, payload });
                }
            }
            let read = self.stream.read_buf(&mut self.buffer);
            match tokio::time::timeout(Duration::from_secs(4), read).await {
                Ok(Ok(0) | Err(_)) => return Err(Fate::Closed),
                Ok(Ok(_)) => {}
                Err(_) => return Err(Fate::Nothing),
            }
        }
    }

    /// The first thing that tells what became of what was sent.
    pub(crate) async fn fate(&mut self) -> Fate {
        loop {
            let frame = match self.next().await {
                Ok(frame) => frame,
                Err(fate) => return fate,
            };
            match frame.kind {
                GOAWAY => return Fate::GoAway(code(&frame.payload[4..])),
                RST_STREAM => return Fate::Reset(code(&frame.payload)),
                HEADERS => return Fate::Status(status(&frame.payload)),
                PING if frame.flags & ACK != 0 => return Fate::Pong,
                _ => {}
            }
        }
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]])
}

/// The status at the start of a header block, as h2 writes it.
fn status(block: &[u8]) -> u16 {
    // After a change of the table's size that may come first.
    let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        // A literal whose name is `:status`, value plain or in Huffman's code; digits have five or six bits there.
        _ if block[1] & 0x80 == 0 => {
            std::str::from_utf8(&block[2..5]).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        }
        _ => digits(&block[2..2 + usize::from(block[1] & 0x7f)]),
    }
}

/// Digits in Huffman's code (RFC 7541, appendix B).
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let take =
            |count: usize| bits[at..at + count].iter().fold(0u16, |sum, bit| sum << 1 | u16::from(*bit));
        let (digit, used) = match take(5) {
            short @ 0..=2 => (short, 5),
            _ => (take(6) - 0x19 + 3, 6),
        };
        value = value * 10 + digit;
        at += used;
    }
    value
}
