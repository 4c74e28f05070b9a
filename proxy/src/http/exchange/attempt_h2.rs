//! One attempt over HTTP/2.

use std::{pin::pin, rc::Rc};

use super::{
    Exchange, Outcome,
    account::Attempt,
    attempt::{AttemptError, FailureReply, Try, Upload},
    flags,
};
use crate::{
    http::{
        body::{PumpError, Sink, Source, pump},
        h1::framing::BodyLength,
        h2::{
            convert,
            sink::{H2Body, H2Sink},
            source::H2Source,
        },
    },
    pool::ClusterLocal,
    route::retry::Failure,
    worker::timer::Deadline,
};

impl Exchange<'_> {
    pub(super) async fn attempt_h2(
        &mut self,
        local: &Rc<ClusterLocal>,
        attempt: &Try<'_>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<Outcome, AttemptError> {
        let (cx, timer) = (self.cx, self.timer);
        let mut counted = Attempt::start(attempt.cluster, attempt.endpoint, cx.worker.index, attempt.started);
        let lease = cx
            .worker
            .pools
            .acquire_h2(attempt.cluster, local, attempt.endpoint, cx.worker.index, timer)
            .await;
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(error) => {
                counted.failed(false);
                return Err(error.into());
            }
        };
        let declared = match attempt.length {
            BodyLength::Exact(length) => Some(length),
            _ => None,
        };
        let Some(head) = convert::write_request(
            self.request,
            self.request.get_span(attempt.host),
            declared,
            self.wants_trailers,
        ) else {
            return Err(AttemptError::Downstream { malformed: true, timeout: false });
        };
        let whole = source.complete().map(bytes::Bytes::copy_from_slice);
        let (upstream_sink, body) = match &whole {
            Some(data) if data.is_empty() => (H2Sink::nothing(timer.clone()), H2Body::Empty),
            Some(data) => {
                (H2Sink::nothing(timer.clone()), H2Body::Full { data: Some(data.clone()), trailers: None })
            }
            None => H2Sink::request(timer.clone(), attempt.patience),
        };
        let tx = whole.as_ref().map_or(0, bytes::Bytes::len) as u64;
        let sending = lease.sender.send_request(head.map(|()| body));
        let mut upstream = Sink::H2(upstream_sink);
        let needs_upload = whole.is_none();
        let uploading = pin!(pump(source, &mut upstream));
        let mut upload = Upload::new(needs_upload.then_some(uploading), timer, attempt.forward.timeout);
        let per_try = attempt.forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
        timer.arm(Deadline::Response, per_try);
        let answer = upload.beside(timer.limit(Deadline::Response, sending)).await?;
        timer.disarm(Deadline::Response);
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                counted.failed(false);
                counted.cells().rq_rx_reset.add(1);
                return Err(AttemptError::Upstream {
                    failure: failure_of(&error),
                    reply: FailureReply::Reset,
                });
            }
            Err(_) => {
                counted.failed(true);
                counted.cells().rq_per_try_timeout.add(1);
                return Err(AttemptError::Upstream {
                    failure: Failure::PerTryTimeout,
                    reply: FailureReply::Timeout,
                });
            }
        };
        if convert::read_response(&response, self.response).is_err() || response.status().is_informational() {
            counted.failed(false);
            return Err(AttemptError::Protocol);
        }
        let status = self.response.status;
        let idempotent = self.method.is_idempotent();
        let policy = attempt.forward.retry.as_ref();
        if attempt.may_retry && policy.is_some_and(|policy| policy.wants(Failure::Status(status), idempotent))
        {
            counted.answered(status);
            return Err(AttemptError::Upstream {
                failure: Failure::Status(status),
                reply: FailureReply::Reset,
            });
        }
        let body = H2Source::new(response.into_body(), timer.clone(), Deadline::Response, attempt.patience);
        let length = match (body.is_done(), body.exact_length()) {
            (true, _) => BodyLength::Empty,
            (false, Some(length)) => BodyLength::Exact(length),
            (false, None) => BodyLength::Chunked,
        };
        self.take_response(attempt, &mut counted);
        self.start_response(sink, length);
        let mut body = Source::H2(body);
        let result = upload.beside(pump(&mut body, sink)).await;
        let complete = upload.is_complete();
        let cells = counted.cells();
        cells.cx_rx_bytes.add(body.received());
        cells.cx_tx_bytes.add(tx);
        match result {
            Ok(Ok(())) => {
                self.close |= !complete;
                Ok(Outcome::Complete)
            }
            Ok(Err(PumpError::Source(_))) => {
                counted.failed(false);
                self.record.flags = flags::UPSTREAM_CLOSED;
                Err(AttemptError::Started)
            }
            Ok(Err(PumpError::Sink(_))) | Err(_) => {
                self.record.flags = flags::DOWNSTREAM_CLOSED;
                Err(AttemptError::Started)
            }
        }
    }
}

/// How far the request got, as far as the error tells.
fn failure_of(error: &hyper::Error) -> Failure {
    if error.is_canceled() {
        // The connection ended before the request was put on it.
        return Failure::ResetBeforeRequest;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return if h2.reason() == Some(h2::Reason::REFUSED_STREAM) {
                Failure::Refused
            } else {
                Failure::Reset
            };
        }
        source = cause.source();
    }
    Failure::Reset
}
