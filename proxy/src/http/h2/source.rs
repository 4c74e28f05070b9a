//! A body that arrives over HTTP/2.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use h2::RecvStream;

use crate::{
    http::{
        body::{SourceError, Step, Trailers, load_report},
        h1::parse::may_be_trailer,
    },
    worker::timer::{Deadline, Timer},
};

/// How long a client that was answered early may take to end its request. What it sends has been on its way already.
const LINGER: Duration = Duration::from_secs(1);

/// Reads one body from a stream; the window is given back as data is taken.
pub(crate) struct H2Source {
    stream: RecvStream,
    current: Bytes,
    trailers: Trailers,
    /// Kept of trailers that were taken.
    pub(in crate::http) load_report: Option<Box<(Vec<u8>, Vec<u8>)>>,
    done: bool,
    timer: Timer,
    deadline: Deadline,
    patience: Option<Duration>,
    /// Payload bytes so far.
    pub(crate) received: u64,
    /// What the trailers say about a gRPC call.
    pub(crate) grpc_status: Option<u32>,
}

impl H2Source {
    pub(crate) fn new(
        stream: RecvStream,
        timer: Timer,
        deadline: Deadline,
        patience: Option<Duration>,
    ) -> Self {
        let done = stream.is_end_stream();
        Self {
            stream,
            current: Bytes::new(),
            trailers: Trailers::new(),
            load_report: None,
            done,
            timer,
            deadline,
            patience,
            received: 0,
            grpc_status: None,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done && self.current.is_empty()
    }

    /// Whether there never was any data.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_done() && self.received == 0
    }

    pub(crate) fn step(&mut self) -> Result<Step, SourceError> {
        // What came already is taken without a wait between, so that small frames leave together.
        while self.current.is_empty() && !self.done {
            match self.poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(Step::Wait),
            }
        }
        Ok(if self.current.is_empty() { Step::End } else { Step::Data(self.current.len()) })
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.current
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.current.advance(count);
        self.received += count as u64;
        // Fails only if the stream is gone, which the next step tells.
        let _ = self.stream.flow_control().release_capacity(count);
    }

    pub(crate) async fn wait(&mut self) -> Result<(), SourceError> {
        self.timer.arm(self.deadline, self.patience);
        let timer = self.timer.clone();
        let result = timer.limit(self.deadline, poll_fn(|cx| self.poll_next(cx))).await;
        timer.disarm(self.deadline);
        result.map_err(|_| SourceError::Timeout)?
    }

    /// Waits, for a moment, until the peer is done with a message of which nothing more is needed, and throws the rest away.
    /// The peer may have sent all of it before it could know, and some clients (curl 7.88 for one) take a reset for a failure,
    /// although all of the answer is there. No window is given back, so there is an end to what comes.
    pub(crate) async fn linger(&mut self) {
        let (timer, deadline) = (self.timer.clone(), self.deadline);
        timer.arm(deadline, Some(LINGER));
        let rest = async {
            while !self.done && poll_fn(|cx| self.poll_next(cx)).await.is_ok() {
                self.current.clear();
            }
        };
        let _ = timer.limit(deadline, rest).await;
        timer.disarm(deadline);
    }

    pub(crate) fn take_trailers(&mut self) -> Trailers {
        self.load_report = load_report(&self.trailers);
        std::mem::take(&mut self.trailers)
    }

    /// Takes the next frame: data into `current`, or the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SourceError>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                self.current = data;
                self.done = self.stream.is_end_stream();
                return Poll::Ready(Ok(()));
            }
            Some(Err(error)) if !is_enough(&error) => return Poll::Ready(Err(failed(&error))),
            Some(Err(_)) => {
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            None => {}
        }
        let trailers = match ready!(self.stream.poll_trailers(cx)) {
            Err(error) if !is_enough(&error) => return Poll::Ready(Err(failed(&error))),
            trailers => trailers.ok().flatten(),
        };
        for (name, value) in trailers.iter().flatten() {
            if may_be_trailer(name.as_str().as_bytes()) {
                if name.as_str() == "grpc-status" {
                    self.grpc_status = value.to_str().ok().and_then(|status| status.parse().ok());
                }
                self.trailers.push((name.as_str().into(), value.as_bytes().to_vec()));
            }
        }
        self.done = true;
        Poll::Ready(Ok(()))
    }
}

/// Whether the peer only says that it needs no more of our message: a server may, once it has sent all of its own (RFC
/// 9113 8.1), and h2 forgets the end that came before. A length that was declared is checked where the body goes.
fn is_enough(error: &h2::Error) -> bool {
    error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::NO_ERROR)
}

fn failed(error: &h2::Error) -> SourceError {
    // Found by h2 itself, not said by the peer: a length that is not what was declared, data that was not allowed.
    if error.is_library() { SourceError::Malformed } else { SourceError::Closed }
}
