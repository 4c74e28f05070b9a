//! The bytes below an HTTP/2 connection, with the frames counted as they pass.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::{Flood, Meter};
use crate::net::Stream;

/// A stream of which some bytes were read already. After a [`Flood`] it reads nothing more.
pub(crate) struct Transport {
    prefix: Bytes,
    stream: Stream,
    meter: Meter,
    watch: Rc<Watch>,
}

/// What the owner of the connection sees of its transport.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    flood: Cell<Option<Flood>>,
    /// Bytes that the peer took, over the life of the connection: whether a stuck one is stuck still.
    sent: Cell<u64>,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.get()
    }
}

// === impl Transport ===

impl Transport {
    pub(crate) fn new(prefix: Bytes, stream: Stream, meter: Meter) -> (Self, Rc<Watch>) {
        let watch = Rc::<Watch>::default();
        (Self { prefix, stream, meter, watch: Rc::clone(&watch) }, watch)
    }

    fn wrote(&mut self, count: usize, parts: &[io::IoSlice<'_>]) {
        self.watch.sent.set(self.watch.sent.get() + count as u64);
        let mut left = count;
        for part in parts {
            let here = part.len().min(left);
            self.meter.sent(&part[..here]);
            left -= here;
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.watch.flood.get().is_some() {
            // Whoever polls sees the flood and ends the connection.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if this.prefix.is_empty() {
            match Pin::new(&mut this.stream).poll_read(cx, buffer) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        } else {
            let count = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..count]);
            this.prefix.advance(count);
        }
        let fresh = &buffer.filled()[before..];
        if let Err(flood) = this.meter.received(fresh) {
            this.watch.flood.set(Some(flood));
            buffer.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        if let Poll::Ready(Ok(count)) = result {
            self.wrote(count, &[io::IoSlice::new(data)]);
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        if let Poll::Ready(Ok(count)) = result {
            self.wrote(count, data);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
