//! A connection that everything above reads from and writes to.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::tls::stream::TlsStream;

/// A connected socket, with TLS on it or without. Reading and writing take it by shared reference, so that both
/// directions can be under way at once on the one thread that it lives on.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

// === impl Stream ===

impl Stream {
    /// The socket below, for its options; never to be read or written past this type.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// The socket, if its bytes are ours as they are: what may be spliced.
    pub(crate) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    /// Ready when [`Stream::try_read`] is worth a try.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_read_ready(cx),
        }
    }

    /// Reads what is there; `WouldBlock` if nothing is, 0 at the end.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => {
                let count = socket.try_read(buffer)?;
                if count > 0 && count < buffer.len() {
                    exhausted(socket);
                }
                Ok(count)
            }
            Self::Tls(stream) => stream.try_read(buffer),
        }
    }

    /// Ready when [`Stream::try_write`] is worth a try.
    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_write_ready(cx),
            Self::Tls(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Takes some of `first` followed by `second`; `WouldBlock` if the peer must take something before. What was taken
    /// last is with the kernel only after [`Stream::try_flush`].
    pub(crate) fn try_write(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) if second.is_empty() => socket.try_write(first),
            Self::Plain(socket) if first.is_empty() => socket.try_write(second),
            Self::Plain(socket) => socket.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)]),
            Self::Tls(stream) => stream.try_write(first, second),
        }
    }

    /// Passes on what was taken and is not with the kernel yet; `WouldBlock` if the peer must take something before.
    pub(crate) fn try_flush(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.try_flush(),
        }
    }

    /// Tells the peer that nothing more will be sent; it may go on sending.
    pub(crate) fn end(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => SockRef::from(socket).shutdown(Shutdown::Write),
            Self::Tls(stream) => stream.end(),
        }
    }

    /// Tries `operation` whenever `ready` says so, until it does not block.
    fn poll_try<T>(
        cx: &mut Context<'_>,
        mut ready: impl FnMut(&mut Context<'_>) -> Poll<io::Result<()>>,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            std::task::ready!(ready(cx))?;
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => {
                let count = std::task::ready!(Self::poll_try(
                    cx,
                    |cx| stream.poll_read_ready(cx),
                    || stream.try_read(buffer.initialize_unfilled()),
                ))?;
                buffer.advance(count);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, data),
            Self::Tls(stream) => {
                Self::poll_try(cx, |cx| stream.poll_write_ready(cx), || stream.try_write(data, &[]))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Self::poll_try(cx, |cx| stream.poll_write_ready(cx), || stream.try_flush()),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => {
                stream.end()?;
                Self::poll_try(cx, |cx| stream.poll_write_ready(cx), || stream.try_flush())
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, data),
            Self::Tls(stream) => {
                let mut pieces = data.iter().filter(|piece| !piece.is_empty());
                let first = pieces.next().map_or(&[][..], |piece| piece);
                let second = pieces.next().map_or(&[][..], |piece| piece);
                Self::poll_try(cx, |cx| stream.poll_write_ready(cx), || stream.try_write(first, second))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// Notes that a read took all there was, so that the next one waits for news from the reactor instead of asking the
/// kernel in vain: half of all reads otherwise, since tokio does this for its own `poll_read` only.
///
/// Nothing is missed: what arrives later is an edge that the reactor reports, and the end of the stream is never forgotten.
pub(crate) fn exhausted(socket: &TcpStream) {
    let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}
