//! A body that leaves over HTTP/2: what hyper reads from, and the end that we write to.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use crate::{
    http::{body::Trailers, h1::write::WriteError, io::IoError},
    worker::timer::{Deadline, Timer},
};

/// What is collected before it is handed to hyper.
const HIGH_WATER: usize = 16 * 1024;

/// A body for hyper.
#[derive(Debug)]
pub(crate) enum H2Body {
    Empty,
    /// All of it, and what follows.
    Full {
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    /// Piece by piece.
    Streaming {
        pieces: mpsc::Receiver<Piece>,
        done: bool,
        task: AbortOnDrop,
    },
}

/// One step of a streaming body.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The proper end; a channel that closes without it is an abort.
    End(Option<HeaderMap>),
}

/// Ends the task that feeds a body when nobody wants the body any more.
#[derive(Debug, Default)]
pub(crate) struct AbortOnDrop(pub(crate) Option<AbortHandle>);

/// The end of a body that we write to.
pub(crate) struct H2Sink {
    state: State,
    buffered: BytesMut,
    timer: Timer,
    deadline: Deadline,
    patience: Option<Duration>,
    /// Payload bytes so far.
    pub(crate) sent: u64,
}

/// How far a message got.
enum State {
    /// A response whose head is not known yet.
    Waiting(oneshot::Sender<Response<H2Body>>),
    /// A response whose head is known and not sent: it may still turn out to be small.
    Ready(oneshot::Sender<Response<H2Body>>, Response<()>),
    /// The body is on its way.
    Streaming(mpsc::Sender<Piece>),
    Finished,
}

/// The body was given up in the middle; the peer sees a reset.
#[derive(Debug, thiserror::Error)]
#[error("the other side of the exchange ended early")]
pub(crate) struct Aborted;

// === impl H2Sink ===

impl H2Sink {
    /// A sink for the response that `reply` takes.
    pub(crate) fn response(
        reply: oneshot::Sender<Response<H2Body>>,
        timer: Timer,
        patience: Option<Duration>,
    ) -> Self {
        Self::new(State::Waiting(reply), timer, Deadline::Send, patience)
    }

    /// A sink for a request body, and the body.
    pub(crate) fn request(timer: Timer, patience: Option<Duration>) -> (Self, H2Body) {
        let (sender, pieces) = mpsc::channel(1);
        let body = H2Body::Streaming { pieces, done: false, task: AbortOnDrop::default() };
        (Self::new(State::Streaming(sender), timer, Deadline::Upstream, patience), body)
    }

    /// A sink for a request without a body.
    pub(crate) fn nothing(timer: Timer) -> Self {
        Self::new(State::Finished, timer, Deadline::Upstream, None)
    }

    fn new(state: State, timer: Timer, deadline: Deadline, patience: Option<Duration>) -> Self {
        Self { state, buffered: BytesMut::new(), timer, deadline, patience, sent: 0 }
    }

    /// Sets the head of the response. Nothing is sent before data must wait or the body ends.
    pub(crate) fn head(&mut self, response: Response<()>) {
        self.state = match std::mem::replace(&mut self.state, State::Finished) {
            State::Waiting(reply) => State::Ready(reply, response),
            other => other,
        };
    }

    pub(crate) fn is_touched(&self) -> bool {
        matches!(self.state, State::Streaming(_) | State::Finished)
    }

    pub(crate) async fn push(&mut self, data: &[u8]) -> Result<(), WriteError> {
        self.sent += data.len() as u64;
        self.buffered.extend_from_slice(data);
        if self.buffered.len() >= HIGH_WATER { self.flush().await } else { Ok(()) }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), WriteError> {
        if matches!(self.state, State::Ready(..)) {
            self.start()?;
        }
        if self.buffered.is_empty() {
            return Ok(());
        }
        let data = self.buffered.split().freeze();
        self.send(Piece::Data(data)).await
    }

    pub(crate) async fn finish(&mut self, trailers: Trailers) -> Result<(), WriteError> {
        let trailers = (!trailers.is_empty()).then(|| trailer_map(&trailers));
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Ready(reply, head) => {
                let data = self.buffered.split().freeze();
                let body = if data.is_empty() && trailers.is_none() {
                    H2Body::Empty
                } else {
                    H2Body::Full { data: Some(data), trailers }
                };
                reply.send(head.map(|()| body)).map_err(|_| gone())
            }
            State::Streaming(sender) => {
                self.state = State::Streaming(sender);
                self.flush().await?;
                self.send(Piece::End(trailers)).await?;
                self.state = State::Finished;
                Ok(())
            }
            State::Waiting(_) | State::Finished => Ok(()),
        }
    }

    fn start(&mut self) -> Result<(), WriteError> {
        if let State::Ready(reply, head) = std::mem::replace(&mut self.state, State::Finished) {
            let (sender, pieces) = mpsc::channel(1);
            let body = H2Body::Streaming { pieces, done: false, task: AbortOnDrop::default() };
            reply.send(head.map(|()| body)).map_err(|_| gone())?;
            self.state = State::Streaming(sender);
        }
        Ok(())
    }

    async fn send(&mut self, piece: Piece) -> Result<(), WriteError> {
        let State::Streaming(sender) = &self.state else { return Ok(()) };
        self.timer.arm(self.deadline, self.patience);
        let result = self.timer.limit(self.deadline, sender.send(piece)).await;
        self.timer.disarm(self.deadline);
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(WriteError::Io(IoError::Timeout)),
        }
    }
}

fn gone() -> WriteError {
    WriteError::Io(IoError::Closed)
}

fn trailer_map(trailers: &Trailers) -> HeaderMap {
    trailers
        .iter()
        .filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?))
        })
        .collect()
}

// === impl H2Body ===

impl H2Body {
    /// Ties the task that feeds this body to it.
    pub(crate) fn owns(&mut self, handle: AbortHandle) {
        if let Self::Streaming { task, .. } = self {
            task.0 = Some(handle);
        }
    }
}

impl http_body::Body for H2Body {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full { data, trailers } => Poll::Ready(match data.take().filter(|data| !data.is_empty()) {
                Some(data) => Some(Ok(Frame::data(data))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            Self::Streaming { done: true, .. } => Poll::Ready(None),
            Self::Streaming { pieces, done, task } => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
                Some(Piece::End(trailers)) => {
                    *done = true;
                    // The task has only its book-keeping left; let it.
                    task.0 = None;
                    trailers.map(|trailers| Ok(Frame::trailers(trailers)))
                }
                None => {
                    *done = true;
                    Some(Err(Aborted))
                }
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full { data, trailers } => data.as_ref().is_none_or(Bytes::is_empty) && trailers.is_none(),
            Self::Streaming { done, .. } => *done,
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}
