//! One attempt over HTTP/2.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use bytes::Bytes;
use h2::{RecvStream, client::ResponseFuture};
use http::Response;

use super::{
    Exchange, Outcome, Reason,
    account::Attempt,
    attempt::Try,
    attempt_h1::MAX_INTERIM,
    failure::{AttemptError, FailureReply},
    mirror::pump_copied,
    upload::Upload,
};
use crate::{
    http::{
        body::{PumpError, Sink, Source, pump},
        change::Changes,
        h1::framing::BodyLength,
        h2::{convert, sink::H2Sink, source::H2Source},
        head::Method,
    },
    pool::{ClusterLocal, H2Lease},
    route::retry::Failure,
    worker::timer::Deadline,
};

/// What an upstream says before the body.
enum Answer {
    /// There will be another one.
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

impl Exchange<'_> {
    pub(super) async fn attempt_h2(
        &mut self,
        local: &Rc<ClusterLocal>,
        attempt: &Try<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let cx = self.cx;
        let mut counted = Attempt::start(attempt.cluster, attempt.endpoint, cx.worker.index, attempt.started);
        let lease = cx.worker.pools.acquire_h2(&self.wanted(local, attempt)).await;
        let lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                counted.not_acquired(&error);
                return Err(error.into());
            }
        };
        let before = source.received();
        let outcome = self.converse_h2(&lease, attempt, &mut counted, source, sink).await;
        let whole = source.complete().map_or(0, <[u8]>::len) as u64;
        counted.cells().cx_tx_bytes.add(whole.max(source.received() - before));
        outcome
    }

    /// Sends the request and takes the response, on a stream of its own.
    async fn converse_h2(
        &mut self,
        lease: &H2Lease,
        attempt: &Try<'_>,
        counted: &mut Attempt<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let timer = self.timer;
        let declared = match attempt.length {
            BodyLength::Exact(length) => Some(length),
            _ => None,
        };
        // A body that is all there stays where it is, for another attempt.
        let whole = source.complete().map(Bytes::copy_from_slice);
        let bare = whole.as_ref().is_some_and(Bytes::is_empty);
        let host = self.request.get_span(attempt.host);
        // In one step: a head in a variable would take its place in the future until the end of the exchange.
        let (mut answer, stream) =
            match convert::write_request(self.request, host, declared, self.wants_trailers)
                .map(|head| lease.send(head, bare))
            {
                Some(Ok(sent)) => sent,
                // The connection ended between our choice and now.
                Some(Err(_)) => return Err(AttemptError::Stale { failure: Failure::ResetBeforeRequest }),
                None => return Err(AttemptError::Downstream { malformed: true, timeout: false }),
            };
        let mut upstream = Sink::H2(H2Sink::request(stream, timer.clone(), attempt.patience));
        let uploading = pin!(async {
            match &whole {
                Some(data) => {
                    upstream.push(data).await.map_err(PumpError::Sink)?;
                    upstream.finish(Vec::new()).await.map_err(PumpError::Sink)
                }
                None => pump_copied(source, &mut upstream, attempt.copies).await,
            }
        });
        let mut upload = Upload::new((!bare).then_some(uploading), timer, attempt.limits);
        let mut interim = 0;
        let response = loop {
            timer.arm(Deadline::Response, attempt.time_to_answer());
            let next = upload.beside(timer.limit(Deadline::Response, next_answer(&mut answer))).await?;
            timer.disarm(Deadline::Response);
            match next {
                Ok(Ok(Answer::Final(response))) => break response,
                Ok(Ok(Answer::Interim(response))) => {
                    interim += 1;
                    if interim > MAX_INTERIM || !self.pass_interim(&response, sink).await? {
                        counted.failed(false);
                        counted.cells().cx_protocol_error.add(1);
                        return Err(AttemptError::Protocol);
                    }
                }
                Ok(Err(error)) => return Err(failed(&error, lease, counted)),
                Err(_) => return Err(attempt.timed_out(counted)),
            }
        };
        lease.refused(false);
        if convert::read_response(&response, self.response).is_err() {
            counted.failed(false);
            counted.cells().cx_protocol_error.add(1);
            return Err(AttemptError::Protocol);
        }
        self.go_on_h2(response.into_body(), attempt, counted, &mut upload, sink).await
    }

    /// Passes an answer on whose head is in `self.response`.
    pub(super) async fn go_on_h2<F: Future<Output = Result<(), PumpError>>>(
        &mut self,
        body: RecvStream,
        attempt: &Try<'_>,
        counted: &mut Attempt<'_>,
        upload: &mut Upload<'_, F>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        if let Some(instead) = self.instead(attempt) {
            counted.answered(self.response);
            return Err(AttemptError::Unwanted(instead));
        }
        let body = H2Source::new(body, self.timer.clone(), Deadline::Response, attempt.patience);
        // Of a body that is never sent, the end may come in a frame of its own.
        let none = self.method == Method::Head || matches!(self.response.status, 204 | 304);
        let mut length = convert::body_length(self.response, none || body.is_done());
        let changes = self.take_response(attempt, counted, length);
        let mut body = Source::H2(body);
        if !changes.is_empty() {
            length = Changes::length(length);
            body = body.changed(changes);
        }
        self.start_response(sink, length);
        let result = upload.beside(pin!(pump(&mut body, sink))).await;
        let complete = upload.is_complete();
        counted.cells().cx_rx_bytes.add(body.received());
        self.record.grpc_trailer = body.h2().and_then(|body| body.grpc_status);
        match result {
            Ok(Ok(())) => {
                counted.trailed(&body);
                self.close |= !complete;
                Ok(Outcome::Complete)
            }
            Ok(Err(PumpError::Source(error))) => {
                counted.failed(false);
                counted.cells().rq_rx_reset.add(1);
                self.record.reason = error.of_upstream();
                if self.request.is_grpc() && self.record.grpc_web.is_none() && end_grpc(sink).await {
                    Ok(Outcome::Complete)
                } else {
                    Err(AttemptError::Started)
                }
            }
            Ok(Err(PumpError::Sink(error))) => {
                self.record.reason = error.of_downstream();
                Err(AttemptError::Started)
            }
            Err(AttemptError::Downstream { malformed: true, .. }) => {
                self.record.reason = Reason::Http2Messaging;
                Err(AttemptError::Started)
            }
            Err(_) => {
                self.record.reason = Reason::DownstreamDisconnect;
                Err(AttemptError::Started)
            }
        }
    }

    /// Passes a response on that is not the final one; whether it was one that may be.
    async fn pass_interim(
        &mut self,
        response: &Response<()>,
        sink: &mut Sink<'_>,
    ) -> Result<bool, AttemptError> {
        // HTTP/2 has no 101 (RFC 9113 8.6).
        if response.status() == 101 || convert::read_response(response, self.response).is_err() {
            return Ok(false);
        }
        // "100 Continue" is between us and the upstream; hints are for the client.
        if self.response.status == 100 {
            return Ok(true);
        }
        self.send_interim(sink).await?;
        Ok(true)
    }
}

/// Ends a gRPC response whose upstream is gone with the status that says so; whether that was possible. A client takes a
/// reset for a fault of the connection and reports it as internal; this it knows to be worth another call.
async fn end_grpc(sink: &mut Sink<'_>) -> bool {
    let Sink::H2(sink) = sink else { return false };
    let status = (b"grpc-status".to_vec(), b"14".to_vec());
    let message = (b"grpc-message".to_vec(), b"the upstream ended in the middle of its response".to_vec());
    sink.finish(vec![status, message]).await.is_ok()
}

/// Waits for the next head.
async fn next_answer(future: &mut ResponseFuture) -> Result<Answer, h2::Error> {
    poll_fn(|cx| {
        if let Poll::Ready(Some(interim)) = future.poll_informational(cx) {
            return Poll::Ready(interim.map(Answer::Interim));
        }
        std::pin::Pin::new(&mut *future).poll(cx).map_ok(Answer::Final)
    })
    .await
}

/// What it means that no answer came, and whether the request may be sent again without asking.
pub(super) fn failed(error: &h2::Error, lease: &H2Lease, counted: &mut Attempt) -> AttemptError {
    counted.cells().rq_rx_reset.add(1);
    if error.is_remote() {
        // Said by the peer: a GOAWAY fails only streams beyond the last one that it looked at.
        if error.is_go_away() {
            return AttemptError::Stale { failure: Failure::ResetBeforeRequest };
        }
        if error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            lease.refused(true);
            return AttemptError::Stale { failure: Failure::Refused };
        }
    }
    counted.failed(false);
    if error.is_library() {
        // The answer broke the rules.
        counted.cells().cx_protocol_error.add(1);
        return AttemptError::Protocol;
    }
    if error.is_io() && lease.reused {
        return AttemptError::Stale { failure: Failure::Reset };
    }
    let reply = if error.is_reset() { FailureReply::Reset } else { FailureReply::Termination };
    AttemptError::Upstream { failure: Failure::Reset, reply }
}
