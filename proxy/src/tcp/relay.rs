//! Moving bytes between two connections, both ways at once.
//!
//! A direction starts with a small buffer; once it has shown to be a bulk transfer it goes through a pipe in the kernel
//! instead (`splice`), which spares the copies. The end of one side is passed on as the end of sending (half-close); the
//! other direction goes on.

use std::{
    future::{Future, poll_fn},
    io,
    net::Shutdown,
    pin::pin,
    task::Poll,
    time::Duration,
};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::splice::Pipe;
use crate::{
    http::io::{IoError, RecvBuf, write_all},
    worker::timer::{Deadline, Timer},
};

/// A direction that moved this much is a bulk transfer.
const BULK: u64 = 256 * 1024;
const BUFFER: usize = 16 * 1024;

/// Bytes moved.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) to_upstream: u64,
    pub(crate) to_client: u64,
}

/// Moves bytes until both directions ended, one broke, or both were silent for `patience`. The first bytes of each
/// direction are given.
pub(crate) async fn run(
    client: &TcpStream,
    upstream: &TcpStream,
    to_upstream: &[u8],
    to_client: &[u8],
    timer: &Timer,
    patience: Option<Duration>,
) -> Counts {
    let mut counts = Counts::default();
    timer.disarm(Deadline::Downstream);
    timer.arm(Deadline::Route, patience);
    {
        let mut up = pin!(one_way(client, upstream, to_upstream, timer, patience, &mut counts.to_upstream));
        let mut down = pin!(one_way(upstream, client, to_client, timer, patience, &mut counts.to_client));
        let (mut up_done, mut down_done) = (false, false);
        poll_fn(|cx| {
            match up.as_mut().poll_if(cx, up_done) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => up_done = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
            match down.as_mut().poll_if(cx, down_done) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => down_done = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
            if up_done && down_done {
                return Poll::Ready(());
            }
            match timer.check(Deadline::Route, cx) {
                Ok(()) => Poll::Pending,
                Err(_) => Poll::Ready(()),
            }
        })
        .await;
    }
    timer.disarm(Deadline::Route);
    counts
}

async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    first: &[u8],
    timer: &Timer,
    patience: Option<Duration>,
    moved: &mut u64,
) -> Result<(), IoError> {
    write_all(to, first, b"", timer, Deadline::Route, patience).await?;
    *moved += first.len() as u64;
    let mut buffer = RecvBuf::default();
    let mut pipe = None;
    while pipe.is_none() {
        let count = poll_fn(|cx| buffer.poll_fill(from, BUFFER, cx)).await.map_err(|_| IoError::Closed)?;
        if count == 0 {
            return end(to);
        }
        let length = buffer.data().len();
        write_all(to, buffer.data(), b"", timer, Deadline::Route, patience).await?;
        buffer.consume(length);
        *moved += length as u64;
        timer.arm(Deadline::Route, patience);
        if *moved >= BULK {
            match Pipe::new() {
                Ok(new) => pipe = Some(new),
                // Out of descriptors: the plain way works too; ask again after as much again.
                Err(_) => continue,
            }
        }
    }
    drop(buffer);
    let Some(mut pipe) = pipe else { return Ok(()) };
    loop {
        if pipe.fill(from).await.map_err(|_| IoError::Closed)? == 0 {
            return end(to);
        }
        while !pipe.is_empty() {
            *moved += pipe.drain(to).await.map_err(|_| IoError::Closed)? as u64;
            timer.arm(Deadline::Route, patience);
        }
    }
}

fn end(to: &TcpStream) -> Result<(), IoError> {
    match SockRef::from(to).shutdown(Shutdown::Write) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(IoError::Closed),
        _ => Ok(()),
    }
}

/// Polls a future only while it is not finished.
trait PollIf: Future {
    fn poll_if(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        finished: bool,
    ) -> Poll<Self::Output>;
}

impl<F: Future> PollIf for F {
    fn poll_if(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        finished: bool,
    ) -> Poll<F::Output> {
        if finished { Poll::Pending } else { self.poll(cx) }
    }
}
