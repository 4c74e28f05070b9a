//! Bytes in and out of a socket: a receive buffer, and reads and writes that end at a deadline.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    marker::PhantomData,
    task::{Context, Poll},
};

use crate::{
    net::Stream,
    worker::timer::{Deadline, Timer},
};

/// What a buffer starts with: room for a usual head with a small body.
const SMALL: usize = 4 * 1024;
/// What it grows to for streaming, whoever streams.
const MEDIUM: usize = 16 * 1024;
/// What it grows to for a stream that fills it again and again, while the thread has room for that.
const LARGE: usize = 64 * 1024;
/// What all buffers of a thread together may have above [`MEDIUM`]. A peer that stops taking data keeps its buffer, and
/// there may be very many of them.
const LARGE_TOTAL: usize = 4 * 1024 * 1024;

thread_local! {
    /// What the buffers of this thread have above [`MEDIUM`].
    static LARGE_USED: Cell<usize> = const { Cell::new(0) };
}

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
    /// The last read took all the room there was: more waits than fits.
    filled: bool,
    /// How much of [`LARGE_TOTAL`] this one has.
    large: Large,
}

/// A part of [`LARGE_TOTAL`], given back when dropped. It belongs to its thread, as buffers do.
#[derive(Debug, Default)]
struct Large {
    bytes: usize,
    on_one_thread: PhantomData<*const ()>,
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

    /// Gives memory back that only a large body needed; to be called between messages. What a body of some kilobytes needed
    /// stays until the connection rests: the next one is then read at once, and not a small piece of it before.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.bytes.len() > MEDIUM {
            *self = Self::default();
        }
    }

    /// Makes room for at least one more byte, up to `limit` bytes in all; `false` if the buffer is that full.
    fn reserve(&mut self, limit: usize) -> bool {
        if self.is_empty() && self.filled {
            self.grow_for_streaming(limit);
        }
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
        // What is in it cannot be consumed before there is more, as with a head: it has to grow, allowance or not.
        let next = if size == 0 { SMALL } else { MEDIUM.max(size * 2) }.min(limit);
        self.bytes.resize(next, 0);
        self.large.set(next.saturating_sub(MEDIUM));
        true
    }

    /// Makes an empty buffer larger, because it was filled to the brim the last time.
    fn grow_for_streaming(&mut self, limit: usize) {
        let size = self.bytes.len();
        let next = MEDIUM.max(size * 2).min(LARGE).min(limit);
        if size == 0 || next <= size || !self.large.try_set(next.saturating_sub(MEDIUM)) {
            return;
        }
        // Nothing is in it, so nothing needs to be copied over.
        self.bytes = vec![0; next];
    }

    /// Reads what is there, at least one byte. `Ok(0)` is the end of the stream; it is also returned when the buffer
    /// holds `limit` bytes, so check [`RecvBuf::data`] against the limit first.
    pub(crate) fn poll_fill(
        &mut self,
        stream: &Stream,
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
                    self.filled = self.end == self.bytes.len();
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
        stream: &Stream,
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

// === impl Large ===

impl Large {
    fn set(&mut self, bytes: usize) {
        LARGE_USED.set(LARGE_USED.get() - self.bytes + bytes);
        self.bytes = bytes;
    }

    /// [`Large::set`] if the thread has as much left.
    fn try_set(&mut self, bytes: usize) -> bool {
        let fits = LARGE_USED.get() - self.bytes + bytes <= LARGE_TOTAL;
        if fits {
            self.set(bytes);
        }
        fits
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The room that a streaming buffer has.
pub(crate) const STREAM_LIMIT: usize = LARGE;

/// Writes all of `first` and then all of `second`; each wait for the peer ends at the deadline, which the caller arms.
pub(crate) async fn write_all(
    stream: &Stream,
    mut first: &[u8],
    mut second: &[u8],
    timer: &Timer,
    deadline: Deadline,
    patience: Option<std::time::Duration>,
) -> Result<(), IoError> {
    let mut armed = false;
    let mut waited = false;
    let mut flushed = false;
    while !flushed {
        let written = if first.is_empty() && second.is_empty() {
            stream.try_flush().map(|()| {
                flushed = true;
                0
            })
        } else {
            stream.try_write(first, second)
        };
        match written {
            Ok(0) if !flushed => return Err(IoError::Closed),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that always has more than fits, of which all is consumed at once.
    fn stream_through(buffer: &mut RecvBuf) {
        for _ in 0..8 {
            assert!(buffer.reserve(STREAM_LIMIT));
            buffer.end = buffer.bytes.len();
            buffer.filled = true;
            buffer.consume(buffer.data().len());
        }
    }

    #[test]
    fn a_stream_gets_a_large_buffer_and_gives_it_back() {
        let mut buffer = RecvBuf::default();
        stream_through(&mut buffer);
        assert_eq!((buffer.bytes.len(), LARGE_USED.get()), (LARGE, LARGE - MEDIUM));
        buffer.shrink();
        assert_eq!((buffer.bytes.len(), LARGE_USED.get()), (0, 0));
    }

    #[test]
    fn what_a_usual_body_needed_is_kept_for_the_next() {
        let mut buffer = RecvBuf::default();
        buffer.reserve(STREAM_LIMIT);
        (buffer.end, buffer.filled) = (SMALL, true);
        buffer.consume(SMALL);
        buffer.reserve(STREAM_LIMIT);
        buffer.filled = false;
        buffer.shrink();
        assert_eq!((buffer.bytes.len(), LARGE_USED.get()), (MEDIUM, 0));
    }

    #[test]
    fn what_does_not_fill_its_buffer_keeps_a_small_one() {
        let mut buffer = RecvBuf::default();
        for _ in 0..8 {
            assert!(buffer.reserve(STREAM_LIMIT));
            buffer.end = 100;
            buffer.consume(100);
        }
        assert_eq!(buffer.bytes.len(), SMALL);
    }

    #[test]
    fn many_streams_together_stay_below_a_bound_and_heads_still_fit() {
        let mut buffers: Vec<RecvBuf> = (0..500).map(|_| RecvBuf::default()).collect();
        buffers.iter_mut().for_each(stream_through);
        let total: usize = buffers.iter().map(|buffer| buffer.bytes.len()).sum();
        assert!(total <= 500 * MEDIUM + LARGE_TOTAL, "{total}");
        let mut head = RecvBuf::default();
        while head.reserve(60 * 1024) {
            head.end = head.bytes.len();
        }
        assert_eq!(head.data().len(), 60 * 1024);
        drop((buffers, head));
        assert_eq!(LARGE_USED.get(), 0);
    }
}
