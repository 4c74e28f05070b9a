//! One attempt over HTTP/1.

use std::{pin::pin, rc::Rc};

use super::{
    Exchange, Outcome,
    account::Attempt,
    attempt::{AttemptError, FailureReply, Try, Upload},
};
use crate::{
    http::{
        body::{PumpError, Sink, Source, pump},
        h1::{
            body::BodyReader,
            client::{ReadError, keeps_alive, read_head},
            framing::{self, BodyLength},
            write::Writer,
        },
        head::Version,
    },
    pool::{ClusterLocal, Connection},
    route::retry::Failure,
    worker::timer::Deadline,
};

/// Interim responses that an upstream may send for one request.
const MAX_INTERIM: usize = 16;

/// What became of one request on a connection.
enum Ended {
    /// The response reached the client.
    Complete { reusable: bool },
    /// The response is one that the retry policy wants no client to see.
    Unwanted { status: u16, reusable: bool },
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
        let timer = self.timer;
        let mut counted = Attempt::start(attempt.cluster, attempt.endpoint, cx.worker.index, attempt.started);
        let acquired = cx
            .worker
            .pools
            .acquire(attempt.cluster, local, attempt.endpoint, cx.worker.index, timer, attempt.fresh)
            .await;
        let (mut connection, reused) = match acquired {
            Ok(acquired) => acquired,
            Err(error) => {
                counted.failed(false);
                return Err(error.into());
            }
        };
        connection.requests = connection.requests.saturating_add(1);
        let before = source.received();
        let ended = self.converse(&mut connection, reused, attempt, &mut counted, source, sink).await;
        let body = source.complete().map_or(0, |body| body.len() as u64);
        counted.cells().cx_tx_bytes.add(body.max(source.received() - before));
        match ended? {
            Ended::Complete { reusable } => {
                if reusable && connection.recv.is_empty() {
                    cx.worker.pools.release(attempt.cluster, connection);
                }
                Ok(Outcome::Complete)
            }
            Ended::Unwanted { status, reusable } => {
                if reusable && connection.recv.is_empty() {
                    cx.worker.pools.release(attempt.cluster, connection);
                }
                Err(AttemptError::Upstream { failure: Failure::Status(status), reply: FailureReply::Reset })
            }
            Ended::Switched => self.switch_protocols(connection, sink).await,
        }
    }

    /// Sends the request and takes the response, on a connection that is for this alone.
    async fn converse(
        &mut self,
        connection: &mut Connection,
        reused: bool,
        attempt: &Try<'_>,
        counted: &mut Attempt,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Ended, AttemptError> {
        let timer = self.timer;
        let Connection { stream, recv, out, .. } = connection;
        let stream = &*stream;
        let mut writer = Writer::new(stream, out, timer, Deadline::Upstream, attempt.patience);
        writer.request(
            self.request,
            attempt.length,
            self.request.get_span(attempt.host),
            self.upgrade.as_deref(),
        );
        // A body that is all there goes out with the head and stays in the buffer, for another attempt.
        let whole = source.complete();
        if let Some(body) = whole {
            // Errors show up as a missing answer, below.
            let _ = writer.push(body).await;
            let _ = writer.finish(&Vec::new());
        }
        let whole_length = whole.map(<[u8]>::len);
        let written = writer.flush().await;
        let touched = writer.touched && written.is_ok();
        let mut upstream_sink = Sink::H1(writer);
        let uploading = pin!(async {
            if whole_length.is_some() { Ok(()) } else { pump(source, &mut upstream_sink).await }
        });
        let needs_upload = whole_length.is_none();
        let mut upload = Upload::new(needs_upload.then_some(uploading), timer, attempt.forward.timeout);

        let per_try = attempt.forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
        let mut interim = 0;
        loop {
            timer.arm(Deadline::Response, per_try);
            let head = upload.beside(pin!(read_head(stream, recv, self.response, timer))).await?;
            timer.disarm(Deadline::Response);
            match head {
                Ok(()) => {}
                Err(ReadError::Invalid) => {
                    counted.failed(false);
                    counted.cells().cx_protocol_error.add(1);
                    return Err(AttemptError::Protocol);
                }
                Err(ReadError::Timeout) => {
                    counted.failed(true);
                    counted.cells().rq_per_try_timeout.add(1);
                    return Err(AttemptError::Upstream {
                        failure: Failure::PerTryTimeout,
                        reply: FailureReply::Timeout,
                    });
                }
                Err(ReadError::Closed { any }) => {
                    let failure = if touched { Failure::Reset } else { Failure::ResetBeforeRequest };
                    if reused && !any {
                        return Err(AttemptError::Stale { failure });
                    }
                    counted.failed(false);
                    counted.cells().rq_rx_reset.add(1);
                    return Err(AttemptError::Upstream { failure, reply: FailureReply::Reset });
                }
            }
            match self.response.status {
                101 if self.upgrade.is_some() => {
                    counted.answered(101);
                    return Ok(Ended::Switched);
                }
                101 => {
                    counted.failed(false);
                    counted.cells().cx_protocol_error.add(1);
                    return Err(AttemptError::Protocol);
                }
                100..=199 => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        counted.failed(false);
                        return Err(AttemptError::Protocol);
                    }
                    // "100 Continue" is between us and the upstream; hints are for the client.
                    if let Sink::H1(client) = sink
                        && self.response.status != 100
                        && self.version == Version::Http11
                    {
                        self.response.strip_hop_by_hop();
                        client.interim(self.response, None);
                        if client.flush().await.is_err() {
                            return Err(AttemptError::Downstream { malformed: false, timeout: false });
                        }
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
        let status = self.response.status;
        let keep = keeps_alive(self.response) && length != BodyLength::UntilClose;
        let retry = attempt.may_retry
            && attempt
                .forward
                .retry
                .as_ref()
                .is_some_and(|policy| policy.wants(Failure::Status(status), self.method.is_idempotent()));
        let reader = BodyReader::new(stream, recv, length, timer, Deadline::Response, attempt.patience);
        if retry {
            counted.answered(status);
            let mut rest = Source::H1(reader);
            let reusable = upload.is_complete() && keep && rest.discard_buffered();
            // The last attempt's status is passed on: `may_retry` is false then.
            return Ok(Ended::Unwanted { status, reusable });
        }
        self.take_response(attempt, counted);
        self.start_response(sink, length);
        let mut body = Source::H1(reader);
        let result = upload.beside(pin!(pump(&mut body, sink))).await;
        let complete = upload.is_complete();
        counted.cells().cx_rx_bytes.add(body.received());
        match result {
            Ok(Ok(())) => {
                // The answer may come before the end of the request; where its rest ends nobody knows.
                self.close |= !complete;
                Ok(Ended::Complete { reusable: complete && keep })
            }
            Ok(Err(PumpError::Source(_))) => {
                counted.failed(false);
                self.record.flags = super::flags::UPSTREAM_CLOSED;
                Err(AttemptError::Started)
            }
            Ok(Err(PumpError::Sink(error))) => {
                self.record.flags = if error.is_timeout() {
                    super::flags::IDLE_TIMEOUT
                } else {
                    super::flags::DOWNSTREAM_CLOSED
                };
                Err(AttemptError::Started)
            }
            Err(_) => {
                self.record.flags = super::flags::DOWNSTREAM_CLOSED;
                Err(AttemptError::Started)
            }
        }
    }

    /// Passes the 101 on. Only now may the client's bytes reach the upstream.
    async fn switch_protocols(
        &mut self,
        connection: Box<Connection>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let protocol = self.response.known(crate::http::head::Known::Upgrade).map(<[u8]>::to_vec);
        let protocol = protocol.or_else(|| self.upgrade.clone()).unwrap_or_default();
        self.response.strip_hop_by_hop();
        self.record.status = 101;
        self.add_response_fields();
        let Sink::H1(client) = sink else { return Err(AttemptError::Protocol) };
        client.interim(self.response, Some(&protocol));
        match client.flush().await {
            Ok(()) => Ok(Outcome::Tunnel(connection)),
            Err(_) => Err(AttemptError::Started),
        }
    }
}
