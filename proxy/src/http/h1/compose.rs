//! Heads and chunk framing from what was understood to bytes, without I/O.

use std::io::Write as _;

use crate::http::{
    body::Trailers,
    decimal::Decimal,
    h1::framing::BodyLength,
    head::{Head, Known, Method, Version, write_field},
};

/// Appends the head of a request for an upstream.
pub(crate) fn request(
    out: &mut Vec<u8>,
    head: &Head,
    length: BodyLength,
    host: &[u8],
    upgrade: Option<&[u8]>,
) {
    out.extend_from_slice(head.method_text());
    out.push(b' ');
    // A CONNECT says where to and nothing else.
    out.extend_from_slice(if head.method == Method::Connect { host } else { head.target() });
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
        write_field(out, b"connection", b"Upgrade");
        write_field(out, b"upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a final response for a client.
pub(crate) fn response(
    out: &mut Vec<u8>,
    head: &Head,
    length: BodyLength,
    to: (Version, Method),
    close: bool,
) {
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
}

/// Appends an interim response, or the one that ends HTTP on this connection: 101, or any of success to a CONNECT.
pub(crate) fn interim(out: &mut Vec<u8>, head: &Head, upgrade: Option<&[u8]>) {
    put_status_line(out, head);
    put_fields(out, head, |known| known == Known::ContentLength);
    if let Some(protocol) = upgrade {
        write_field(out, b"connection", b"Upgrade");
        write_field(out, b"upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends what precedes a chunk of `size` bytes, at least one.
pub(crate) fn chunk_start(out: &mut Vec<u8>, size: usize) {
    debug_assert!(size > 0, "a chunk of size 0 would be the last one");
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{size:x}\r\n");
}

/// Appends what follows the data of a chunk.
pub(crate) fn chunk_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body.
pub(crate) fn last_chunk(out: &mut Vec<u8>, trailers: &Trailers) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
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
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&Decimal::new(u64::from(head.status)));
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

fn put_fields(out: &mut Vec<u8>, head: &Head, skip: impl Fn(Known) -> bool) {
    // HTTP/2 may split cookies into many fields; HTTP/1 knows one (RFC 9113 8.2.3).
    let crumbs = head.version == Version::Http2;
    head.write_fields(out, |known| skip(known) || (crumbs && known == Known::Cookie));
    if crumbs {
        let cookies: Vec<&[u8]> = head.all_known(Known::Cookie).collect();
        if !cookies.is_empty() {
            write_field(out, b"cookie", &cookies.join(&b"; "[..]));
        }
    }
}

fn put_length(out: &mut Vec<u8>, length: BodyLength) {
    match length {
        BodyLength::Exact(length) => {
            write_field(out, b"content-length", &Decimal::new(length));
        }
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyLength::Empty | BodyLength::UntilClose => {}
    }
}
