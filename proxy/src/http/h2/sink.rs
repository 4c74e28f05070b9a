//! A message that leaves over HTTP/2.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::{
    http::{body::Trailers, h1::write::WriteError, io::IoError},
    worker::timer::{Deadline, Timer},
};

/// What is collected before it is sent: a frame of the usual size.
const HIGH_WATER: usize = 16 * 1024;

/// Our half of a stream.
pub(crate) enum Outgoing {
    /// A response whose head is not sent.
    Response(SendResponse<Bytes>),
    /// The head is sent.
    Stream(SendStream<Bytes>),
    /// All is sent, or the stream is reset.
    Ended,
}

/// Our half of a stream, for those who write it and those who watch whether the peer still wants it. On one thread, and
/// never borrowed across a wait.
pub(crate) type SharedOutgoing = Rc<RefCell<Outgoing>>;

/// Writes one message; data waits for the window that the peer gives.
pub(crate) struct H2Sink {
    out: SharedOutgoing,
    /// Held back until data must be sent or the body ends, so that a message without body is one frame.
    head: Option<Response<()>>,
    buffered: BytesMut,
    timer: Timer,
    deadline: Deadline,
    patience: Option<Duration>,
    /// Payload bytes so far.
    pub(crate) sent: u64,
}

// === impl Outgoing ===

impl Outgoing {
    /// Ready when the peer reset the stream or the connection is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Response(response) => response.poll_reset(cx).map(|_| ()),
            Self::Stream(stream) => stream.poll_reset(cx).map(|_| ()),
            Self::Ended => Poll::Pending,
        }
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        match std::mem::replace(self, Self::Ended) {
            Self::Response(mut response) => response.send_reset(reason),
            Self::Stream(mut stream) => stream.send_reset(reason),
            Self::Ended => {}
        }
    }
}

// === impl H2Sink ===

impl H2Sink {
    /// A sink for the response that `out` waits for.
    pub(crate) fn response(out: SharedOutgoing, timer: Timer, patience: Option<Duration>) -> Self {
        Self::new(out, timer, Deadline::Send, patience)
    }

    /// A sink for the body of a request whose head is sent.
    pub(crate) fn request(stream: SendStream<Bytes>, timer: Timer, patience: Option<Duration>) -> Self {
        Self::new(Rc::new(RefCell::new(Outgoing::Stream(stream))), timer, Deadline::Upstream, patience)
    }

    fn new(out: SharedOutgoing, timer: Timer, deadline: Deadline, patience: Option<Duration>) -> Self {
        Self { out, head: None, buffered: BytesMut::new(), timer, deadline, patience, sent: 0 }
    }

    /// Sets the head of the response. Nothing is sent before data must be or the body ends.
    pub(crate) fn head(&mut self, response: Response<()>) {
        self.head = Some(response);
    }

    /// Sends a response before the final one.
    pub(crate) fn interim(&mut self, response: Response<()>) -> Result<(), WriteError> {
        match &mut *self.out.borrow_mut() {
            Outgoing::Response(out) => out.send_informational(response).map_err(gone),
            Outgoing::Stream(_) | Outgoing::Ended => Ok(()),
        }
    }

    pub(crate) fn is_touched(&self) -> bool {
        !matches!(&*self.out.borrow(), Outgoing::Response(_))
    }

    pub(crate) async fn push(&mut self, data: &[u8]) -> Result<(), WriteError> {
        self.sent += data.len() as u64;
        self.buffered.extend_from_slice(data);
        if self.buffered.len() >= HIGH_WATER { self.flush().await } else { Ok(()) }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), WriteError> {
        self.start(false)?;
        self.send_buffered(false).await
    }

    pub(crate) async fn finish(&mut self, trailers: Trailers) -> Result<(), WriteError> {
        let trailers = (!trailers.is_empty()).then(|| trailer_map(&trailers));
        let bare = self.buffered.is_empty() && trailers.is_none();
        if self.head.is_some() && bare {
            return self.start(true);
        }
        self.start(false)?;
        match trailers {
            Some(trailers) => {
                self.send_buffered(false).await?;
                self.with_stream(|stream| stream.send_trailers(trailers))?;
            }
            None if bare => self.with_stream(|stream| stream.send_data(Bytes::new(), true))?,
            None => self.send_buffered(true).await?,
        }
        *self.out.borrow_mut() = Outgoing::Ended;
        Ok(())
    }

    fn start(&mut self, end: bool) -> Result<(), WriteError> {
        let Some(head) = self.head.take() else { return Ok(()) };
        let mut out = self.out.borrow_mut();
        let Outgoing::Response(response) = &mut *out else { return Ok(()) };
        let stream = response.send_response(head, end).map_err(gone)?;
        *out = if end { Outgoing::Ended } else { Outgoing::Stream(stream) };
        Ok(())
    }

    async fn send_buffered(&mut self, end: bool) -> Result<(), WriteError> {
        while !self.buffered.is_empty() {
            let room = self.capacity().await?;
            let piece = self.buffered.split_to(room.min(self.buffered.len())).freeze();
            let last = end && self.buffered.is_empty();
            self.with_stream(|stream| stream.send_data(piece, last))?;
        }
        Ok(())
    }

    /// Waits until the peer takes some of what is buffered.
    async fn capacity(&mut self) -> Result<usize, WriteError> {
        self.with_stream(|stream| {
            stream.reserve_capacity(self.buffered.len());
            Ok(())
        })?;
        let mut waited = false;
        let result = poll_fn(|cx| {
            let mut out = self.out.borrow_mut();
            let Outgoing::Stream(stream) = &mut *out else { return Poll::Ready(Err(lost())) };
            loop {
                match stream.capacity() {
                    0 => {}
                    room => return Poll::Ready(Ok(room)),
                }
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(lost())),
                    Poll::Pending => break,
                }
            }
            if !waited {
                waited = true;
                self.timer.arm(self.deadline, self.patience);
            }
            match self.timer.check(self.deadline, cx) {
                Ok(()) => Poll::Pending,
                Err(_) => Poll::Ready(Err(WriteError::Io(IoError::Timeout))),
            }
        })
        .await;
        if waited {
            self.timer.disarm(self.deadline);
        }
        result
    }

    fn with_stream(
        &self,
        act: impl FnOnce(&mut SendStream<Bytes>) -> Result<(), h2::Error>,
    ) -> Result<(), WriteError> {
        match &mut *self.out.borrow_mut() {
            Outgoing::Stream(stream) => act(stream).map_err(gone),
            Outgoing::Response(_) | Outgoing::Ended => Err(lost()),
        }
    }
}

fn gone(_: h2::Error) -> WriteError {
    lost()
}

fn lost() -> WriteError {
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
