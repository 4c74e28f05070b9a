//! Bytes in and out of a socket: a receive buffer, and reads and writes that end at a deadline.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll},
};

use tokio::{io::Interest, net::TcpStream};

use crate::worker::timer::{Deadline, Timer};

/// What a buffer starts with: room for a usual head with a small body.
const SMALL: usize = 4 * 1024;
/// What it grows to for streaming.
const LARGE: usize = 64 * 1024;

/// Why reading or writing ended.
#[derive(Debug)]
pub(crate) enum IoError {
    /// The peer closed or broke the connection; how makes no difference to anybody.
    Closed,
    /// The deadline passed.
    Timeout,
}

/// Bytes that were received and not consumed yet.
#[derive(Debug, Default)]
pub(crate) struct RecvBuf {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

// === impl IoError ===

impl IoError {
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout)
    }
}

// === impl RecvBuf ===

impl RecvBuf {
    /// What is there.
    pub(crate) fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives memory back that only a large body needed; to be called between messages.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.bytes.len() > SMALL {
            self.bytes = Vec::new();
        }
    }

    /// Makes room for at least one more byte, up to `limit` bytes in all; `false` if the buffer is that full.
    fn reserve(&mut self, limit: usize) -> bool {
        if self.end < self.bytes.len() {
            return true;
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            return true;
        }
        let size = self.bytes.len();
        if size >= limit {
            return false;
        }
        // A buffer that was filled to the brim once belongs to a stream: do not crawl up in small steps.
        let next = if size == 0 { SMALL } else { LARGE.max(size * 2) }.min(limit);
        self.bytes.resize(next, 0);
        true
    }

    /// Reads what is there, at least one byte. `Ok(0)` is the end of the stream; it is also returned when the buffer
    /// holds `limit` bytes, so check [`RecvBuf::data`] against the limit first.
    pub(crate) fn poll_fill(
        &mut self,
        stream: &TcpStream,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {}
            }
            if !self.reserve(limit) {
                return Poll::Ready(Ok(0));
            }
            match stream.try_read(&mut self.bytes[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    if count > 0 && self.end < self.bytes.len() {
                        exhausted(stream);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// [`RecvBuf::poll_fill`] with a deadline and room for streaming.
    pub(crate) async fn fill(
        &mut self,
        stream: &TcpStream,
        limit: usize,
        timer: &Timer,
        deadline: Deadline,
    ) -> Result<usize, IoError> {
        poll_fn(|cx| match self.poll_fill(stream, limit, cx) {
            Poll::Ready(result) => Poll::Ready(result.map_err(|_| IoError::Closed)),
            Poll::Pending => match timer.check(deadline, cx) {
                Ok(()) => Poll::Pending,
                Err(_) => Poll::Ready(Err(IoError::Timeout)),
            },
        })
        .await
    }
}

/// Notes that a read took all there was, so that the next one waits for news from the reactor instead of asking the
/// kernel in vain: half of all reads otherwise, since tokio does this for its own `poll_read` only.
///
/// Nothing is missed: what arrives later is an edge that the reactor reports, and the end of the stream is never forgotten.
fn exhausted(stream: &TcpStream) {
    let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

/// The room that a streaming buffer has.
pub(crate) const STREAM_LIMIT: usize = LARGE;

/// Writes all of `first` and then all of `second`; each wait for the peer ends at the deadline, which the caller arms.
pub(crate) async fn write_all(
    stream: &TcpStream,
    mut first: &[u8],
    mut second: &[u8],
    timer: &Timer,
    deadline: Deadline,
    patience: Option<std::time::Duration>,
) -> Result<(), IoError> {
    let mut armed = false;
    let mut waited = false;
    while !(first.is_empty() && second.is_empty()) {
        let result = if second.is_empty() {
            stream.try_write(first)
        } else if first.is_empty() {
            stream.try_write(second)
        } else {
            stream.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)])
        };
        match result {
            Ok(0) => return Err(IoError::Closed),
            Ok(count) => {
                let of_first = count.min(first.len());
                first = &first[of_first..];
                second = &second[count - of_first..];
                // Progress: the peer is not stuck.
                armed = false;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !armed {
                    timer.arm(deadline, patience);
                    armed = true;
                    waited = true;
                }
                poll_fn(|cx| match stream.poll_write_ready(cx) {
                    Poll::Ready(result) => Poll::Ready(result.map_err(|_| IoError::Closed)),
                    Poll::Pending => match timer.check(deadline, cx) {
                        Ok(()) => Poll::Pending,
                        Err(_) => Poll::Ready(Err(IoError::Timeout)),
                    },
                })
                .await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(IoError::Closed),
        }
    }
    if waited {
        timer.disarm(deadline);
    }
    Ok(())
}
