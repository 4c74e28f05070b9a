//! How long an exchange may take, and what the upstream is told about it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Exchange, Reason, Reply};
use crate::{
    cluster::Cluster,
    http::decimal::Decimal,
    route::{
        Forward,
        duration::{parse_grpc, write_grpc},
    },
};

/// The limits of one exchange; they share a deadline, since which of them count depends on how far the request is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    started: Instant,
    /// From the complete request on.
    timeout: Option<Duration>,
    /// From the start to the complete request.
    request: Option<Duration>,
    /// From the start to the end.
    stream: Option<Duration>,
    /// What a gRPC client will wait, from the start.
    grpc: Option<Duration>,
}

// === impl Limits ===

impl Limits {
    pub(super) fn new(exchange: &Exchange<'_>, forward: &Forward) -> Self {
        let request = &exchange.request;
        // The media type costs less to look at than the absence of a field in all the others.
        let grpc = if request.is_grpc() { request.get(b"grpc-timeout").and_then(parse_grpc) } else { None };
        let timeouts = &exchange.cx.manager.timeouts;
        Self {
            started: exchange.started,
            timeout: forward.timeout,
            request: timeouts.request,
            stream: forward.stream_limit.of(grpc, timeouts.stream_max),
            grpc,
        }
    }

    /// The time that is left while the request is still coming.
    pub(super) fn of_request(&self) -> Option<Duration> {
        self.left(self.request.into_iter().chain(self.stream).min())
    }

    /// The time that is left now that the request is complete.
    pub(super) fn of_response(&self) -> Option<Duration> {
        self.timeout.into_iter().chain(self.left(self.stream)).min()
    }

    fn left(&self, limit: Option<Duration>) -> Option<Duration> {
        limit.map(|limit| limit.saturating_sub(self.started.elapsed()))
    }

    /// The answer when the time is up.
    pub(super) fn exceeded(&self, request_complete: bool) -> Reply {
        let stream_is_over = self.stream.is_some_and(|stream| self.started.elapsed() >= stream);
        if stream_is_over {
            let mut reply = Reply::new(408, Reason::MaxDurationTimeout, "downstream duration timeout");
            reply.grpc_status = Some(4);
            reply
        } else if request_complete {
            Reply::new(504, Reason::UpstreamTimeout, "upstream request timeout")
        } else {
            Reply::new(408, Reason::RequestTimeout, "request timeout")
        }
    }
}

// === impl Exchange ===

impl Exchange<'_> {
    /// Counts the end of an exchange whose time is up.
    pub(super) fn count_exceeded(&self, reply: &Reply, cluster: &Cluster) {
        let worker = self.cx.worker.index;
        match reply.reason {
            Reason::UpstreamTimeout => cluster.stats.at(worker).rq_timeout.add(1),
            Reason::MaxDurationTimeout => self.cx.manager.stats.at(worker).rq_max_duration_reached.add(1),
            _ => self.cx.manager.stats.at(worker).rq_timeout.add(1),
        }
    }

    /// Tells the upstream how long its answer is waited for, so that it need not work longer: what is left of the
    /// exchange, or the time for one try if that is less. What a gRPC client said is never made longer.
    pub(super) fn announce_limits(&mut self, limits: &Limits, within_try: Option<Duration>) {
        let elapsed = self.started.elapsed();
        let whole = limits.timeout.into_iter().chain(limits.stream).min();
        let expected = whole.map(|whole| whole.saturating_sub(elapsed));
        let expected = expected.into_iter().chain(within_try).min();
        if let Some(expected) = expected
            && !self.cx.manager.suppress_envoy_headers
        {
            let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX).max(1);
            self.request.set(b"x-envoy-expected-rq-timeout-ms", &Decimal::new(millis));
        }
        if let Some(asked) = limits.grpc {
            let left = asked.saturating_sub(elapsed);
            let left = expected.map_or(left, |expected| left.min(expected));
            self.request.set(b"grpc-timeout", write_grpc(left).as_bytes());
        }
    }
}
