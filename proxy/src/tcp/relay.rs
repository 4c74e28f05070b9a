//! Moving bytes between two connections, both ways at once.
//!
//! A direction starts with a buffer that its thread has for all of them, and holds bytes of its own only while the other
//! side takes none; once it has shown to be a bulk transfer it goes through a pipe in the kernel instead (`splice`), which
//! spares the copies. The end of one side is passed on as the end of sending (half-close); the
//! other direction goes on.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::splice::Pipe;
use crate::{
    http::io::{IoError, write_all},
    net::Stream,
    worker::timer::{Deadline, Timer},
};

/// A direction that moved this much is a bulk transfer.
const BULK: u64 = 256 * 1024;
/// What is read at once before that, and the most that a direction holds.
const BUFFER: usize = 16 * 1024;

thread_local! {
    /// Never borrowed across a wait.
    static SHARED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What became of a connection.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Relayed {
    pub(crate) to_upstream: u64,
    pub(crate) to_client: u64,
    pub(crate) end: End,
}

/// How it ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides said all that they had to say.
    #[default]
    Finished,
    /// Nothing was said for too long.
    Idle,
    /// It took as long as it may, however lively it was.
    Expired,
    /// The client reset it.
    ClientReset,
    /// The upstream reset it.
    UpstreamReset,
    /// One side took no more of what the other sent.
    Refused,
}

/// Why one direction ended before its end.
enum Break {
    Read,
    Write,
    Timeout,
}

/// Moves bytes until both directions ended, one broke, both were silent for `patience`, or [`Deadline::Response`] passed,
/// if it is armed. The first bytes of each direction are given.
pub(crate) async fn run(
    client: &Stream,
    upstream: &Stream,
    to_upstream: &[u8],
    to_client: &[u8],
    timer: &Timer,
    patience: Option<Duration>,
) -> Relayed {
    let mut relayed = Relayed::default();
    timer.disarm(Deadline::Downstream);
    timer.arm(Deadline::Route, patience);
    let (mut sent, mut received) = (0, 0);
    let last = Cell::new(false);
    relayed.end = {
        let mut up = pin!(one_way(client, upstream, to_upstream, timer, patience, &mut sent, &last));
        let mut down = pin!(one_way(upstream, client, to_client, timer, patience, &mut received, &last));
        let (mut up_done, mut down_done) = (false, false);
        let mut refused = false;
        poll_fn(|cx| {
            match up.as_mut().poll_if(cx, up_done) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => up_done = true,
                // A peer that takes nothing more may have said something still. Reading from it comes to an end.
                Poll::Ready(Err(Break::Write)) => (up_done, refused) = (true, true),
                Poll::Ready(Err(Break::Read)) => return Poll::Ready(End::ClientReset),
                Poll::Ready(Err(Break::Timeout)) => return Poll::Ready(End::Idle),
            }
            match down.as_mut().poll_if(cx, down_done) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => down_done = true,
                Poll::Ready(Err(Break::Write)) => (down_done, refused) = (true, true),
                Poll::Ready(Err(Break::Read)) => return Poll::Ready(End::UpstreamReset),
                Poll::Ready(Err(Break::Timeout)) => return Poll::Ready(End::Idle),
            }
            if up_done && down_done {
                return Poll::Ready(if refused { End::Refused } else { End::Finished });
            }
            if timer.check(Deadline::Route, cx).is_err() {
                return Poll::Ready(End::Idle);
            }
            match timer.check(Deadline::Response, cx) {
                Ok(()) => Poll::Pending,
                Err(_) => Poll::Ready(End::Expired),
            }
        })
        .await
    };
    timer.disarm(Deadline::Route);
    (relayed.to_upstream, relayed.to_client) = (sent, received);
    relayed
}

async fn one_way(
    from: &Stream,
    to: &Stream,
    first: &[u8],
    timer: &Timer,
    patience: Option<Duration>,
    moved: &mut u64,
    last: &Cell<bool>,
) -> Result<(), Break> {
    write_all(to, first, b"", timer, Deadline::Route, patience).await.map_err(Break::writing)?;
    *moved += first.len() as u64;
    let mut pipe = None;
    while pipe.is_none() {
        let mut rest = Vec::new();
        let count = match poll_fn(|cx| poll_once(from, to, &mut rest, cx)).await {
            Ok(count) => count,
            // TLS that was not closed in words, as many do: the end still, and no reason to take back what was sent.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(_) => return Err(Break::Read),
        };
        if count == 0 {
            return end(to, last);
        }
        write_all(to, &rest, b"", timer, Deadline::Route, patience).await.map_err(Break::writing)?;
        *moved += count as u64;
        timer.arm(Deadline::Route, patience);
        if *moved >= BULK && from.plain().is_some() && to.plain().is_some() {
            match Pipe::new() {
                Ok(new) => pipe = Some(new),
                // Out of descriptors: the plain way works too; ask again after as much again.
                Err(_) => continue,
            }
        }
    }
    let Some(mut pipe) = pipe else { return Ok(()) };
    loop {
        if pipe.fill(from.socket()).await.map_err(|_| Break::Read)? == 0 {
            return end(to, last);
        }
        while !pipe.is_empty() {
            *moved += pipe.drain(to.socket()).await.map_err(|_| Break::Write)? as u64;
            timer.arm(Deadline::Route, patience);
        }
    }
}

/// Reads once and writes what was read; `rest` gets what could not be written without waiting. How much was read: 0 is the
/// end.
fn poll_once(
    from: &Stream,
    to: &Stream,
    rest: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        let read = SHARED.with_borrow_mut(|buffer| -> io::Result<usize> {
            buffer.resize(BUFFER, 0);
            let count = from.try_read(buffer)?;
            // An error comes again with the next attempt.
            let taken = if count > 0 { to.try_write(&buffer[..count], b"").unwrap_or(0) } else { 0 };
            rest.extend_from_slice(&buffer[taken..count]);
            Ok(count)
        });
        match read {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            result => return Poll::Ready(result),
        }
    }
}

/// Passes an end on. After the `last` one both sockets are closed, and nothing that was received is unread: closing says
/// the same as ending the sending would.
fn end(to: &Stream, last: &Cell<bool>) -> Result<(), Break> {
    if last.replace(true) && to.plain().is_some() {
        return Ok(());
    }
    match to.end() {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Break::Write),
        _ => Ok(()),
    }
}

// === impl Break ===

impl Break {
    fn writing(error: IoError) -> Self {
        if error.is_timeout() { Self::Timeout } else { Self::Write }
    }
}

/// Polls a future only while it is not finished.
trait PollIf: Future {
    fn poll_if(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>, finished: bool) -> Poll<Self::Output>;
}

impl<F: Future> PollIf for F {
    fn poll_if(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>, finished: bool) -> Poll<F::Output> {
        if finished { Poll::Pending } else { self.poll(cx) }
    }
}
