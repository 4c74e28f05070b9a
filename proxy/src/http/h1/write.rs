//! Writing heads and bodies to a connection.

use std::time::Duration;

use crate::{
    http::{
        body::Trailers,
        h1::{compose, framing::BodyLength},
        head::{Head, Method, Version},
        io::{IoError, write_all},
    },
    net::Stream,
    worker::timer::{Deadline, Timer},
};

/// Data pieces from this size on are written from where they are instead of being copied together first.
const LARGE: usize = 8 * 1024;
/// What is collected at most before it is written.
const HIGH_WATER: usize = 64 * 1024;

/// Writes one message. Nothing reaches the peer before [`Writer::flush`] or a large piece of data.
pub(crate) struct Writer<'a> {
    stream: &'a Stream,
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
        stream: &'a Stream,
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
        compose::request(self.out, head, length, host, upgrade);
        self.length = length;
    }

    /// Puts the head of a final response for a client.
    pub(crate) fn response(&mut self, head: &Head, length: BodyLength, to: (Version, Method), close: bool) {
        compose::response(self.out, head, length, to, close);
        self.length = length;
    }

    /// Puts an interim response, or the one that ends HTTP on this connection.
    pub(crate) fn interim(&mut self, head: &Head, upgrade: Option<&[u8]>) {
        compose::interim(self.out, head, upgrade);
    }

    /// Puts body data.
    pub(crate) async fn push(&mut self, data: &[u8]) -> Result<(), WriteError> {
        // A chunk of size 0 would be the last one.
        if data.is_empty() {
            return Ok(());
        }
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
            compose::chunk_start(self.out, data.len());
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
            compose::chunk_end(self.out);
        }
        if self.out.len() >= HIGH_WATER { self.flush().await } else { Ok(()) }
    }

    /// Puts the end of the body.
    pub(crate) fn finish(&mut self, trailers: &Trailers) -> Result<(), WriteError> {
        match self.length {
            BodyLength::Exact(remaining) if remaining > 0 => return Err(WriteError::Length),
            BodyLength::Chunked => compose::last_chunk(self.out, trailers),
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
