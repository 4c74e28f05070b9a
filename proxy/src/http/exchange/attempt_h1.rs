//! One attempt over HTTP/1.

use std::{pin::pin, rc::Rc};

use super::{
    Exchange, Outcome, Reason,
    account::Attempt,
    attempt::Try,
    failure::{AttemptError, FailureReply, Instead},
    mirror::pump_copied,
    upload::Upload,
};
use crate::{
    http::{
        body::{PumpError, Sink, Source, pump},
        change::Changes,
        h1::{
            body::BodyReader,
            client::{ReadError, keeps_alive, read_head},
            framing::{self, BodyLength},
            write::Writer,
        },
        head::{Known, Method},
    },
    pool::{ClusterLocal, Connection},
    route::retry::Failure,
    worker::timer::Deadline,
};

/// Interim responses that an upstream may send for one request.
pub(crate) const MAX_INTERIM: usize = 16;

/// What became of one request on a connection.
enum Ended {
    /// The response reached the client.
    Complete { reusable: bool },
    /// The response is one that the retry policy wants no client to see.
    Unwanted { instead: Instead, reusable: bool },
    /// The upstream agreed to another protocol.
    Switched,
}

impl Exchange<'_> {
    pub(super) async fn attempt_h1(
        &mut self,
        local: &Rc<ClusterLocal>,
        attempt: &Try<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let cx = self.cx;
        let mut counted = Attempt::start(attempt.cluster, attempt.endpoint, cx.worker.index, attempt.started);
        let acquired = cx.worker.pools.acquire(&self.wanted(local, attempt)).await;
        let (mut connection, reused) = match acquired {
            Ok(acquired) => acquired,
            Err(error) => {
                counted.not_acquired(&error);
                return Err(error.into());
            }
        };
        connection.requests = connection.requests.saturating_add(1);
        let before = source.received();
        let ended = self.converse(&mut connection, reused, attempt, &mut counted, source, sink).await;
        let body = source.complete().map_or(0, |body| body.len() as u64);
        counted.cells().cx_tx_bytes.add(body.max(source.received() - before));
        match ended? {
            Ended::Switched => self.switch_protocols(connection, sink).await,
            ended => self.give_back(attempt, connection, ended),
        }
    }

    /// Passes an answer on whose head is in `self.response` already.
    pub(super) async fn go_on_h1(
        &mut self,
        mut connection: Box<Connection>,
        attempt: &Try<'_>,
        counted: &mut Attempt<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let ended = self.converse(&mut connection, false, attempt, counted, source, sink).await?;
        self.give_back(attempt, connection, ended)
    }

    /// Keeps the connection for others, if it may be.
    fn give_back(
        &self,
        attempt: &Try<'_>,
        connection: Box<Connection>,
        ended: Ended,
    ) -> Result<Outcome, AttemptError> {
        let (reusable, result) = match ended {
            Ended::Complete { reusable } => (reusable, Ok(Outcome::Complete)),
            Ended::Unwanted { instead, reusable } => (reusable, Err(AttemptError::Unwanted(instead))),
            Ended::Switched => (false, Err(AttemptError::Protocol)),
        };
        if reusable && connection.recv.is_empty() {
            self.cx.worker.pools.release(attempt.cluster, connection);
        }
        result
    }

    /// Sends the request and takes the response, on a connection that is for this alone.
    async fn converse(
        &mut self,
        connection: &mut Connection,
        reused: bool,
        attempt: &Try<'_>,
        counted: &mut Attempt<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Ended, AttemptError> {
        let timer = self.timer;
        let Connection { stream, recv, out, .. } = connection;
        let stream = &*stream;
        let mut writer = Writer::new(stream, out, timer, Deadline::Upstream, attempt.patience);
        // A body that is all there goes out with the head and stays in the buffer, for another attempt.
        let whole = source.complete();
        let whole_length = whole.map(<[u8]>::len);
        let mut touched = true;
        if !attempt.answered {
            writer.request(
                self.request,
                attempt.length,
                self.request.get_span(attempt.host),
                self.upgrade.as_deref().filter(|_| self.method != Method::Connect),
            );
            if let Some(body) = whole {
                // Errors show up as a missing answer, below.
                let _ = writer.push(body).await;
                let _ = writer.finish(&Vec::new());
            }
            let written = writer.flush().await;
            touched = writer.touched && written.is_ok();
        }
        let mut upstream_sink = Sink::H1(writer);
        let uploading = pin!(async {
            if whole_length.is_some() {
                Ok(())
            } else {
                pump_copied(source, &mut upstream_sink, attempt.copies).await
            }
        });
        let needs_upload = whole_length.is_none();
        let mut upload = Upload::new(needs_upload.then_some(uploading), timer, attempt.limits);

        let mut interim = 0;
        loop {
            if attempt.answered {
                break;
            }
            timer.arm(Deadline::Response, attempt.time_to_answer());
            let head = upload.beside(pin!(read_head(stream, recv, self.response, timer))).await?;
            timer.disarm(Deadline::Response);
            match head {
                Ok(()) => {}
                Err(ReadError::Invalid) => {
                    counted.failed(false);
                    counted.cells().cx_protocol_error.add(1);
                    return Err(AttemptError::Protocol);
                }
                Err(ReadError::Timeout) => return Err(attempt.timed_out(counted)),
                Err(ReadError::Closed { any }) => {
                    let failure = if touched { Failure::Reset } else { Failure::ResetBeforeRequest };
                    if reused && !any && interim == 0 {
                        return Err(AttemptError::Stale { failure });
                    }
                    counted.failed(false);
                    counted.cells().rq_rx_reset.add(1);
                    return Err(AttemptError::Upstream { failure, reply: FailureReply::Termination });
                }
            }
            match self.response.status {
                101 if self.upgrade.is_some() && self.method != Method::Connect => {
                    counted.answered(self.response);
                    return Ok(Ended::Switched);
                }
                200..=299 if self.method == Method::Connect => {
                    counted.answered(self.response);
                    return Ok(Ended::Switched);
                }
                101 => {
                    counted.failed(false);
                    counted.cells().cx_protocol_error.add(1);
                    return Err(AttemptError::Protocol);
                }
                100..=199 => {
                    interim += 1;
                    if interim > MAX_INTERIM || framing::of_response(self.response, self.method).is_err() {
                        counted.failed(false);
                        counted.cells().cx_protocol_error.add(1);
                        return Err(AttemptError::Protocol);
                    }
                    // "100 Continue" is between us and the upstream; hints are for the client.
                    if self.response.status != 100 {
                        self.send_interim(sink).await?;
                    }
                }
                _ => break,
            }
        }

        let length = match framing::of_response(self.response, self.method) {
            Ok(length) => length,
            Err(_) => {
                counted.failed(false);
                counted.cells().cx_protocol_error.add(1);
                return Err(AttemptError::Protocol);
            }
        };
        let keep = keeps_alive(self.response) && length != BodyLength::UntilClose;
        let reader = BodyReader::new(stream, recv, length, timer, Deadline::Response, attempt.patience);
        if let Some(instead) = self.instead(attempt) {
            counted.answered(self.response);
            let mut rest = Source::H1(reader);
            let reusable = upload.is_complete() && keep && rest.discard_buffered();
            return Ok(Ended::Unwanted { instead, reusable });
        }
        let changes = self.take_response(attempt, counted, length);
        let mut body = Source::H1(reader);
        let mut length = length;
        if !changes.is_empty() {
            length = Changes::length(length);
            body = body.changed(changes);
        }
        self.start_response(sink, length);
        let result = upload.beside(pin!(pump(&mut body, sink))).await;
        let complete = upload.is_complete();
        counted.cells().cx_rx_bytes.add(body.received());
        match result {
            Ok(Ok(())) => {
                counted.trailed(&body);
                // The answer may come before the end of the request; where its rest ends nobody knows.
                self.close |= !complete;
                self.ended = Some(counted.completed());
                Ok(Ended::Complete { reusable: complete && keep })
            }
            Ok(Err(PumpError::Source(error))) => {
                counted.failed(false);
                self.record.reason = error.of_upstream();
                Err(AttemptError::Started)
            }
            Ok(Err(PumpError::Sink(error))) => {
                self.record.reason = error.of_downstream();
                Err(AttemptError::Started)
            }
            Err(_) => {
                self.record.reason = Reason::DownstreamDisconnect;
                Err(AttemptError::Started)
            }
        }
    }

    /// Passes on that HTTP ends here. Only now may the client's bytes reach the upstream.
    pub(super) async fn switch_protocols(
        &mut self,
        connection: Box<Connection>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let protocol = self.response.known(Known::Upgrade).map(<[u8]>::to_vec);
        let protocol = protocol.or_else(|| self.upgrade.clone()).unwrap_or_default();
        let _ = self.response.strip_hop_by_hop();
        self.record.status = self.response.status;
        self.add_response_fields();
        let Sink::H1(client) = sink else { return Err(AttemptError::Protocol) };
        client.interim(self.response, Some(&*protocol).filter(|_| self.method != Method::Connect));
        match client.flush().await {
            Ok(()) => Ok(Outcome::Tunnel(connection)),
            Err(_) => Err(AttemptError::Started),
        }
    }
}
