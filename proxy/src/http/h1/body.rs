//! Reading a message body from a connection.

use std::{cell::Cell, time::Duration};

use crate::{
    http::{
        body::{SourceError, Step, Trailers, load_report},
        h1::{
            chunked::{Decoder, Found},
            framing::BodyLength,
            parse,
        },
        io::{IoError, RecvBuf, STREAM_LIMIT, write_all},
    },
    net::Stream,
    worker::timer::{Deadline, Timer},
};

/// Where in the body the reader is.
#[derive(Debug)]
enum State {
    /// So many bytes are left, at least one.
    Exact(u64),
    Chunked(Decoder),
    UntilClose,
    Done,
}

/// Reads one body and not a byte more: what follows stays in the connection's buffer.
pub(crate) struct BodyReader<'a> {
    stream: &'a Stream,
    recv: &'a mut RecvBuf,
    timer: &'a Timer,
    deadline: Deadline,
    /// Longest pause between bytes.
    patience: Option<Duration>,
    state: State,
    trailers: Trailers,
    /// Kept of trailers that were taken.
    pub(in crate::http) load_report: Option<Box<(Vec<u8>, Vec<u8>)>>,
    /// Set while the client waits for "100 Continue"; cleared by whoever sends it or a final response.
    expects_continue: Option<&'a Cell<bool>>,
    /// Payload bytes so far.
    pub(crate) received: u64,
}

// === impl BodyReader ===

impl<'a> BodyReader<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        recv: &'a mut RecvBuf,
        length: BodyLength,
        timer: &'a Timer,
        deadline: Deadline,
        patience: Option<Duration>,
    ) -> Self {
        let state = match length {
            BodyLength::Empty => State::Done,
            BodyLength::Exact(length) => State::Exact(length),
            BodyLength::Chunked => State::Chunked(Decoder::default()),
            BodyLength::UntilClose => State::UntilClose,
        };
        let trailers = Trailers::new();
        Self {
            stream,
            recv,
            timer,
            deadline,
            patience,
            state,
            trailers,
            load_report: None,
            expects_continue: None,
            received: 0,
        }
    }

    /// "100 Continue" is sent before the reader first waits for the client, if `flag` is set then.
    pub(crate) fn expecting_continue(mut self, flag: &'a Cell<bool>) -> Self {
        self.expects_continue = Some(flag);
        self
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The whole body, if its length is known and all of it is there.
    pub(crate) fn complete(&self) -> Option<&[u8]> {
        match self.state {
            State::Done if self.received == 0 => Some(&[]),
            State::Exact(length) if self.received == 0 => {
                self.recv.data().get(..usize::try_from(length).ok()?)
            }
            _ => None,
        }
    }

    /// What comes next, without waiting.
    pub(crate) fn step(&mut self) -> Result<Step, SourceError> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Step::End),
                State::Exact(remaining) => {
                    let available =
                        usize::try_from(*remaining).unwrap_or(usize::MAX).min(self.recv.data().len());
                    return Ok(if available == 0 { Step::Wait } else { Step::Data(available) });
                }
                State::UntilClose => {
                    let available = self.recv.data().len();
                    return Ok(if available == 0 { Step::Wait } else { Step::Data(available) });
                }
                State::Chunked(decoder) => {
                    match decoder.decode(self.recv.data()).map_err(|_| SourceError::Malformed)? {
                        Found::Skip(count) => self.recv.consume(count),
                        Found::Data(count) => return Ok(Step::Data(count)),
                        Found::More => return Ok(Step::Wait),
                        Found::End(count) => {
                            parse::trailers(&self.recv.data()[..count], &mut self.trailers)
                                .map_err(|_| SourceError::Malformed)?;
                            self.recv.consume(count);
                            self.state = State::Done;
                        }
                    }
                }
            }
        }
    }

    /// The data that `step` told of.
    pub(crate) fn data(&self) -> &[u8] {
        self.recv.data()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.recv.consume(count);
        self.received += count as u64;
        match &mut self.state {
            State::Exact(remaining) => {
                *remaining -= count as u64;
                if *remaining == 0 {
                    self.state = State::Done;
                }
            }
            State::Chunked(decoder) => decoder.consumed(count),
            State::UntilClose | State::Done => {}
        }
    }

    /// Waits for more bytes.
    pub(crate) async fn wait(&mut self) -> Result<(), SourceError> {
        if let Some(flag) = self.expects_continue
            && flag.replace(false)
        {
            const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
            write_all(self.stream, CONTINUE, b"", self.timer, Deadline::Send, self.patience)
                .await
                .map_err(SourceError::from_io)?;
        }
        self.timer.arm(self.deadline, self.patience);
        let result = self.recv.fill(self.stream, STREAM_LIMIT, self.timer, self.deadline).await;
        self.timer.disarm(self.deadline);
        match (result, &self.state) {
            (Ok(0), State::UntilClose) => {
                self.state = State::Done;
                Ok(())
            }
            // A body that is cut off must never look complete to whoever gets it.
            (Ok(0), _) => Err(SourceError::Closed),
            (Ok(_), _) => Ok(()),
            (Err(error), _) => Err(SourceError::from_io(error)),
        }
    }

    pub(crate) fn take_trailers(&mut self) -> Trailers {
        self.load_report = load_report(&self.trailers);
        std::mem::take(&mut self.trailers)
    }
}

impl SourceError {
    fn from_io(error: IoError) -> Self {
        match error {
            IoError::Closed => Self::Closed,
            IoError::Timeout => Self::Timeout,
        }
    }
}
