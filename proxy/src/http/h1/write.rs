//! Writing heads and bodies to a connection.

use std::{io::Write as _, time::Duration};

use tokio::net::TcpStream;

use crate::{
    http::{
        body::Trailers,
        h1::framing::BodyLength,
        head::{Head, Known, Method, Version},
        io::{IoError, write_all},
    },
    worker::timer::{Deadline, Timer},
};

/// Data pieces from this size on are written from where they are instead of being copied together first.
const LARGE: usize = 8 * 1024;
/// What is collected at most before it is written.
const HIGH_WATER: usize = 64 * 1024;

/// Writes one message. Nothing reaches the peer before [`Writer::flush`] or a large piece of data.
pub(crate) struct Writer<'a> {
    stream: &'a TcpStream,
    out: &'a mut Vec<u8>,
    timer: &'a Timer,
    deadline: Deadline,
    patience: Option<Duration>,
    length: BodyLength,
    /// Payload bytes so far.
    pub(crate) sent: u64,
    /// Whether any byte may have reached the peer.
    pub(crate) touched: bool,
}

/// Why a body cannot be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    Io(IoError),
    /// More or less data than was declared: the source contradicts itself.
    Length,
}

// === impl Writer ===

impl<'a> Writer<'a> {
    pub(crate) fn new(
        stream: &'a TcpStream,
        out: &'a mut Vec<u8>,
        timer: &'a Timer,
        deadline: Deadline,
        patience: Option<Duration>,
    ) -> Self {
        out.clear();
        Self { stream, out, timer, deadline, patience, length: BodyLength::Empty, sent: 0, touched: false }
    }

    /// Puts the head of a request for an upstream.
    pub(crate) fn request(&mut self, head: &Head, length: BodyLength, host: &[u8], upgrade: Option<&[u8]>) {
        let out = &mut *self.out;
        out.extend_from_slice(head.method_text());
        out.push(b' ');
        out.extend_from_slice(head.target());
        out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        out.extend_from_slice(host);
        out.extend_from_slice(b"\r\n");
        put_fields(out, head, |known| matches!(known, Known::Host | Known::ContentLength | Known::Expect));
        match length {
            BodyLength::Empty
                if matches!(head.method, Method::Post | Method::Put)
                    || head.known(Known::ContentLength).is_some() =>
            {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            length => put_length(out, length),
        }
        if let Some(protocol) = upgrade {
            put_field(out, b"connection", b"Upgrade");
            put_field(out, b"upgrade", protocol);
        }
        out.extend_from_slice(b"\r\n");
        self.length = length;
    }

    /// Puts the head of a final response for a client.
    pub(crate) fn response(&mut self, head: &Head, length: BodyLength, to: (Version, Method), close: bool) {
        let out = &mut *self.out;
        put_status_line(out, head);
        let (version, method) = to;
        // Of a body that is not sent, the declared length is still news to the client.
        let informative = (method == Method::Head || head.status == 304) && length == BodyLength::Empty;
        put_fields(out, head, |known| known == Known::ContentLength && !informative);
        match length {
            BodyLength::Empty if informative || head.status == 204 => {}
            BodyLength::Empty => out.extend_from_slice(b"content-length: 0\r\n"),
            length => put_length(out, length),
        }
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        } else if version == Version::Http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        self.length = length;
    }

    /// Puts an interim response, or the 101 that ends HTTP on this connection.
    pub(crate) fn interim(&mut self, head: &Head, upgrade: Option<&[u8]>) {
        let out = &mut *self.out;
        put_status_line(out, head);
        put_fields(out, head, |known| known == Known::ContentLength);
        if let Some(protocol) = upgrade {
            put_field(out, b"connection", b"Upgrade");
            put_field(out, b"upgrade", protocol);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Puts body data.
    pub(crate) async fn push(&mut self, data: &[u8]) -> Result<(), WriteError> {
        let chunked = match &mut self.length {
            // An answer to HEAD: the data ends here.
            BodyLength::Empty => return Ok(()),
            BodyLength::Exact(remaining) => {
                *remaining = remaining.checked_sub(data.len() as u64).ok_or(WriteError::Length)?;
                false
            }
            BodyLength::Chunked => true,
            BodyLength::UntilClose => false,
        };
        self.sent += data.len() as u64;
        if chunked {
            // Writing to a Vec cannot fail.
            let _ = write!(self.out, "{:x}\r\n", data.len());
        }
        if data.len() >= LARGE {
            self.touched = true;
            write_all(self.stream, self.out, data, self.timer, self.deadline, self.patience)
                .await
                .map_err(WriteError::Io)?;
            self.out.clear();
        } else {
            self.out.extend_from_slice(data);
        }
        if chunked {
            self.out.extend_from_slice(b"\r\n");
        }
        if self.out.len() >= HIGH_WATER { self.flush().await } else { Ok(()) }
    }

    /// Puts the end of the body.
    pub(crate) fn finish(&mut self, trailers: &Trailers) -> Result<(), WriteError> {
        match self.length {
            BodyLength::Exact(remaining) if remaining > 0 => return Err(WriteError::Length),
            BodyLength::Chunked => {
                self.out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers {
                    put_field(self.out, name, value);
                }
                self.out.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends what was put.
    pub(crate) async fn flush(&mut self) -> Result<(), WriteError> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.touched = true;
        write_all(self.stream, self.out, b"", self.timer, self.deadline, self.patience)
            .await
            .map_err(WriteError::Io)?;
        self.out.clear();
        Ok(())
    }
}

fn put_status_line(out: &mut Vec<u8>, head: &Head) {
    if head.status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let reason = match head.reason() {
        b"" => http::StatusCode::from_u16(head.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("")
            .as_bytes(),
        reason => reason,
    };
    // Writing to a Vec cannot fail.
    let _ = write!(out, "HTTP/1.1 {} ", head.status);
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

fn put_fields(out: &mut Vec<u8>, head: &Head, skip: impl Fn(Known) -> bool) {
    let mut cookies: Vec<&[u8]> = Vec::new();
    for (known, name, value) in head.fields() {
        match known {
            // HTTP/2 may split cookies into many fields; HTTP/1 knows one (RFC 9113 8.2.3).
            Known::Cookie if head.version == Version::Http2 => cookies.push(value),
            Known::Other => put_field(out, name, value),
            known if skip(known) => {}
            _ => put_field(out, name, value),
        }
    }
    if !cookies.is_empty() {
        put_field(out, b"cookie", &cookies.join(&b"; "[..]));
    }
}

fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_length(out: &mut Vec<u8>, length: BodyLength) {
    match length {
        BodyLength::Exact(length) => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "content-length: {length}\r\n");
        }
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Empty | BodyLength::UntilClose => {}
    }
}
