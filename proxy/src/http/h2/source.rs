//! A body that arrives over HTTP/2.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::{
    http::{
        body::{SourceError, Step, Trailers},
        h1::parse::may_be_trailer,
    },
    worker::timer::{Deadline, Timer},
};

/// Reads one body from a stream; flow control is given back as data is taken.
pub(crate) struct H2Source {
    incoming: Incoming,
    current: Bytes,
    trailers: Trailers,
    done: bool,
    timer: Timer,
    deadline: Deadline,
    patience: Option<Duration>,
    /// Payload bytes so far.
    pub(crate) received: u64,
}

impl H2Source {
    pub(crate) fn new(
        incoming: Incoming,
        timer: Timer,
        deadline: Deadline,
        patience: Option<Duration>,
    ) -> Self {
        let done = incoming.is_end_stream();
        Self {
            incoming,
            current: Bytes::new(),
            trailers: Trailers::new(),
            done,
            timer,
            deadline,
            patience,
            received: 0,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done && self.current.is_empty()
    }

    /// Whether there never was any data.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_done() && self.received == 0
    }

    /// The declared length, if there is one.
    pub(crate) fn exact_length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    pub(crate) fn step(&mut self) -> Step {
        match (self.current.is_empty(), self.done) {
            (false, _) => Step::Data(self.current.len()),
            (true, true) => Step::End,
            (true, false) => Step::Wait,
        }
    }

    pub(crate) fn data(&self) -> &[u8] {
        &self.current
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.current.advance(count);
        self.received += count as u64;
    }

    pub(crate) async fn wait(&mut self) -> Result<(), SourceError> {
        self.timer.arm(self.deadline, self.patience);
        let frame = self.timer.limit(self.deadline, self.incoming.frame()).await;
        self.timer.disarm(self.deadline);
        match frame {
            Err(_) => Err(SourceError::Timeout),
            Ok(None) => {
                self.done = true;
                Ok(())
            }
            Ok(Some(Err(_))) => Err(SourceError::Closed),
            Ok(Some(Ok(frame))) => {
                match frame.into_data() {
                    Ok(data) => {
                        self.current = data;
                        self.done = self.incoming.is_end_stream();
                    }
                    Err(frame) => {
                        for (name, value) in frame.trailers_ref().into_iter().flatten() {
                            if may_be_trailer(name.as_str().as_bytes()) {
                                self.trailers.push((name.as_str().into(), value.as_bytes().to_vec()));
                            }
                        }
                        self.done = true;
                    }
                }
                Ok(())
            }
        }
    }

    pub(crate) fn take_trailers(&mut self) -> Trailers {
        std::mem::take(&mut self.trailers)
    }
}
