//! Forwarding, with retries.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use super::{Exchange, Outcome, Reply, account::Attempt, flags};
use crate::{
    balance::pick,
    cluster::{Cluster, Discovery, UpstreamProtocol, breaker::Permit, endpoint::Endpoint},
    http::{
        body::{PumpError, Sink, Source},
        h1::{framing::BodyLength, parse::is_authority},
        head::{Head, Span, Version},
    },
    pool::AcquireError,
    route::{
        Action, Forward, HostRewrite, Route, Target, WeightedCluster, mutate::Mutations, retry::Failure,
    },
    worker::timer::{Deadline, Timer},
};

/// What one attempt led to when it did not lead to a response.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The upstream failed before its response began.
    Upstream { failure: Failure, reply: FailureReply },
    /// The same, on a connection that had been idle: most likely it was just being closed.
    Stale { failure: Failure },
    /// The upstream's response is not HTTP as it should be.
    Protocol,
    /// The client failed or gave up, or its body is malformed.
    Downstream { malformed: bool, timeout: bool },
    /// The response began and cannot be completed.
    Started,
}

/// What the client is told when there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureReply {
    ConnectFailure,
    ConnectTimeout,
    Overflow,
    Reset,
    Timeout,
}

/// Everything about the current attempt that both protocols need.
pub(super) struct Try<'t> {
    pub(super) cluster: &'t Arc<Cluster>,
    pub(super) endpoint: &'t Arc<Endpoint>,
    pub(super) route: &'t Route,
    pub(super) weighted: Option<&'t WeightedCluster>,
    pub(super) forward: &'t Forward,
    /// In the text of the request.
    pub(super) host: Span,
    pub(super) length: BodyLength,
    /// Whether another attempt is possible, so that a bad status is not passed on.
    pub(super) may_retry: bool,
    /// Longest pause of the response body.
    pub(super) patience: Option<Duration>,
    /// Never use a connection that has been idle.
    pub(super) fresh: bool,
    pub(super) started: Instant,
}

/// The request body on its way, beside the response.
pub(super) struct Upload<'u, F> {
    future: Option<Pin<&'u mut F>>,
    timer: &'u Timer,
    /// Armed for [`Deadline::Route`] when the request is complete, as Envoy counts it.
    timeout: Option<Duration>,
    /// The upstream stopped taking the request; it may have answered nevertheless.
    pub(super) refused: bool,
}

impl Exchange<'_> {
    /// Sends the request to the route's cluster and the response to the client.
    pub(super) async fn forward(
        &mut self,
        route: &Arc<Route>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
        length: BodyLength,
    ) -> Outcome {
        let Action::Forward(forward) = &route.action else {
            return self.reply(Reply::new(500, flags::NONE, ""), source, sink).await;
        };
        let (slot, weighted) = match &forward.target {
            Target::One(slot) => (slot, None),
            Target::Weighted { total, clusters } => {
                let mut point = self.cx.worker.random.below(*total as usize) as u32;
                let found = clusters.iter().find(|cluster| {
                    let here = point < cluster.weight;
                    point = point.saturating_sub(cluster.weight);
                    here
                });
                match found {
                    Some(weighted) => (&weighted.cluster, Some(weighted)),
                    None => return self.reply(Reply::new(503, flags::NO_CLUSTER, ""), source, sink).await,
                }
            }
        };
        let Some(cluster) = slot.get() else {
            self.cx.manager.stats.at(self.cx.worker.index).no_cluster.add(1);
            return self
                .reply(Reply::new(forward.no_cluster_status, flags::NO_CLUSTER, ""), source, sink)
                .await;
        };
        self.record.cluster = Some(Arc::clone(&cluster.name));
        let Some(_permit) = Permit::take(&cluster.breaker.requests, cluster.breaker.limits.requests) else {
            cluster.stats.at(self.cx.worker.index).rq_pending_overflow.add(1);
            return self.reply(overflow(), source, sink).await;
        };
        self.rewrite(route, forward, weighted);
        if source.is_done() || source.complete().is_some() {
            self.timer.arm(Deadline::Route, forward.timeout);
        } else {
            self.timer.disarm(Deadline::Route);
        }
        let timer = self.timer;
        // Pinned here and not moved again: as a value it is kilobytes to copy, for every request.
        let result = {
            let attempts = pin!(self.attempts(&cluster, route, forward, weighted, source, sink, length));
            timer.limit(Deadline::Route, attempts).await
        };
        timer.disarm(Deadline::Route);
        match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(reply)) => self.reply(reply, source, sink).await,
            Err(_) => {
                let cells = cluster.stats.at(self.cx.worker.index);
                cells.rq_timeout.add(1);
                if sink.is_touched() || self.record.status != 0 {
                    self.record.flags = flags::UPSTREAM_TIMEOUT;
                    return Outcome::Broken;
                }
                self.reply(Reply::new(504, flags::UPSTREAM_TIMEOUT, "upstream request timeout"), source, sink)
                    .await
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "borrows that live for one call; a struct would only be unpacked again"
    )]
    async fn attempts(
        &mut self,
        cluster: &Arc<Cluster>,
        route: &Route,
        forward: &Forward,
        weighted: Option<&WeightedCluster>,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
        length: BodyLength,
    ) -> Result<Outcome, Reply> {
        let worker = &self.cx.worker;
        let local = worker.pools.local(cluster);
        let patience = forward.idle_timeout.or(self.cx.manager.timeouts.stream_idle);
        let idempotent = self.method.is_idempotent();
        let retries = forward.retry.as_ref().map_or(0, |policy| policy.retries);
        let mut tried: Vec<u64> = Vec::new();
        let mut stale_before = false;
        let mut left = retries;
        let mut retry_permit = None;
        let mut started = self.started;
        loop {
            let endpoint = match &cluster.discovery {
                Discovery::OriginalDst { port_override } => {
                    // Without a redirect the "original destination" is ourselves: forwarding there would never end.
                    self.cx.original.map(|mut address| {
                        if let Some(port) = port_override {
                            address.set_port(*port);
                        }
                        worker.pools.original(&local, address)
                    })
                }
                _ => pick(cluster, &cluster.endpoints.load(), &local.turn, &worker.random, &tried),
            };
            let Some(endpoint) = endpoint else {
                cluster.stats.at(worker.index).cx_none_healthy.add(1);
                return Err(Reply::new(503, flags::NO_HEALTHY, "no healthy upstream"));
            };
            self.record.upstream = Some(Arc::clone(&endpoint));
            self.record.attempts += 1;
            let replayable = source.complete().is_some() || (source.received() == 0 && !source.is_done());
            let host = self.upstream_host(forward, weighted, &endpoint);
            let may_retry = left > 0 && replayable;
            let attempt = Try {
                cluster,
                endpoint: &endpoint,
                route,
                weighted,
                forward,
                host,
                length,
                may_retry,
                patience,
                fresh: stale_before,
                started,
            };
            let http2 = match cluster.protocol {
                UpstreamProtocol::Http1 => false,
                UpstreamProtocol::Http2 => true,
                UpstreamProtocol::Downstream => self.version == Version::Http2,
            } && self.upgrade.is_none();
            let result = if http2 {
                Box::pin(self.attempt_h2(&local, &attempt, source, sink)).await
            } else {
                self.attempt_h1(&local, &attempt, source, sink).await
            };
            let (failure, reply) = match result {
                Ok(outcome) => {
                    if retry_permit.is_some() {
                        cluster.stats.at(worker.index).rq_retry_success.add(1);
                    }
                    return Ok(outcome);
                }
                Err(AttemptError::Started) => return Ok(Outcome::Broken),
                Err(AttemptError::Protocol) => {
                    return Err(Reply::new(
                        502,
                        flags::UPSTREAM_PROTOCOL,
                        "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
                    ));
                }
                Err(AttemptError::Downstream { malformed, timeout }) => {
                    if sink.is_touched() || self.record.status != 0 {
                        self.record.flags = flags::DOWNSTREAM_CLOSED;
                        return Ok(Outcome::Broken);
                    }
                    self.close = true;
                    return Err(match (malformed, timeout) {
                        (true, _) => Reply::new(400, flags::DOWNSTREAM_PROTOCOL, ""),
                        (_, true) => Reply::new(408, flags::IDLE_TIMEOUT, "stream timeout"),
                        _ => {
                            self.record.flags = flags::DOWNSTREAM_CLOSED;
                            return Ok(Outcome::Broken);
                        }
                    });
                }
                Err(AttemptError::Stale { failure }) => {
                    let sent_again = source.complete().is_some() || source.received() == 0;
                    if !stale_before && sent_again && (idempotent || failure == Failure::ResetBeforeRequest) {
                        // No retry in the sense of the policy: this connection never served this request.
                        stale_before = true;
                        continue;
                    }
                    (failure, FailureReply::Reset)
                }
                Err(AttemptError::Upstream { failure, reply }) => (failure, reply),
            };
            let replayable = source.complete().is_some() || source.received() == 0;
            let wanted = forward.retry.as_ref().filter(|policy| policy.wants(failure, idempotent));
            let Some(policy) = wanted.filter(|_| left > 0 && replayable && self.record.status == 0) else {
                return Err(failure_reply(reply));
            };
            let cells = cluster.stats.at(worker.index);
            if retry_permit.is_none() {
                retry_permit = Permit::take(&cluster.breaker.retries, cluster.breaker.limits.retries);
            }
            if retry_permit.is_none() {
                cells.rq_retry_overflow.add(1);
                return Err(failure_reply(reply));
            }
            cells.rq_retry.add(1);
            let attempt = retries - left;
            left -= 1;
            tried.push(endpoint.id);
            self.back_off(policy.backoff_base, policy.backoff_max, attempt).await;
            started = Instant::now();
        }
    }

    /// Applies the route's changes to the request.
    fn rewrite(&mut self, route: &Route, forward: &Forward, weighted: Option<&WeightedCluster>) {
        if forward.append_forwarded_host {
            let host = self.request.authority().to_vec();
            self.request.append(b"x-forwarded-host", &host);
        }
        if let Some(weighted) = weighted {
            weighted.request.apply(self.request);
        }
        route.request.apply(self.request);
        if let Some(target) = route.rewrite(forward, self.request.target()) {
            if !self.cx.manager.suppress_envoy_headers {
                let before = self.request.target().to_vec();
                self.request.set(b"x-envoy-original-path", &before);
            }
            let target = self.request.intern(&target);
            self.request.set_target(target);
        }
    }

    /// The host that the upstream is asked for.
    fn upstream_host(
        &mut self,
        forward: &Forward,
        weighted: Option<&WeightedCluster>,
        endpoint: &Endpoint,
    ) -> Span {
        let rewrite = match weighted {
            Some(weighted) if weighted.host != HostRewrite::Keep => &weighted.host,
            _ => &forward.host,
        };
        let host = match rewrite {
            HostRewrite::Literal(host) => self.request.intern(host),
            HostRewrite::Endpoint if !endpoint.hostname.is_empty() => {
                self.request.intern(endpoint.hostname.as_bytes())
            }
            HostRewrite::Header(name) => {
                let value = self.request.get(name).filter(|value| is_authority(value)).map(<[u8]>::to_vec);
                match value {
                    Some(value) => self.request.intern(&value),
                    None => self.request.authority_span(),
                }
            }
            HostRewrite::Keep | HostRewrite::Endpoint => self.request.authority_span(),
        };
        // HTTP/1.0 may come without any.
        if host.is_empty() { self.request.intern(endpoint.address_text.as_bytes()) } else { host }
    }

    /// Waits before the `attempt`-th retry: nothing up to an exponentially growing bound, at random.
    async fn back_off(&self, base: Duration, max: Duration, attempt: u32) {
        let ceiling = base.saturating_mul(1 << attempt.min(16)).min(max);
        let ceiling = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX).max(1);
        let wait = self.cx.worker.random.next() % ceiling;
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }

    /// Takes note of the response head that is in `self.response`, and makes it the client's.
    pub(super) fn take_response(&mut self, attempt: &Try<'_>, counted: &mut Attempt) {
        let latency = counted.answered(self.response.status);
        let millis = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.record.upstream_millis = Some(millis);
        self.response.strip_hop_by_hop();
        if !self.cx.manager.suppress_envoy_headers {
            let mut text = [0u8; 20];
            let text = decimal(millis, &mut text);
            self.response.set(b"x-envoy-upstream-service-time", text);
        }
        if let Some(weighted) = attempt.weighted {
            weighted.response.apply(self.response);
        }
        apply(&attempt.route.response, self.response);
    }
}

fn apply(mutations: &Mutations, head: &mut Head) {
    if !mutations.0.is_empty() {
        mutations.apply(head);
    }
}

fn overflow() -> Reply {
    Reply::new(
        503,
        flags::OVERFLOW,
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    )
}

fn failure_reply(reply: FailureReply) -> Reply {
    match reply {
        FailureReply::ConnectFailure => Reply::new(
            503,
            flags::CONNECT_FAILURE,
            "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        ),
        FailureReply::ConnectTimeout => Reply::new(
            503,
            flags::CONNECT_FAILURE,
            "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
        ),
        FailureReply::Overflow => overflow(),
        FailureReply::Reset => Reply::new(
            503,
            flags::UPSTREAM_CLOSED,
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        ),
        FailureReply::Timeout => Reply::new(504, flags::UPSTREAM_TIMEOUT, "upstream request timeout"),
    }
}

/// The digits of `value` at the end of `buffer`: no allocation, no formatting machinery on the hot path.
fn decimal(mut value: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &buffer[start..];
        }
    }
}

impl From<AcquireError> for AttemptError {
    fn from(error: AcquireError) -> Self {
        let (failure, reply) = match error {
            AcquireError::Overflow => (Failure::Connect, FailureReply::Overflow),
            AcquireError::Connect => (Failure::Connect, FailureReply::ConnectFailure),
            AcquireError::Timeout => (Failure::Connect, FailureReply::ConnectTimeout),
        };
        Self::Upstream { failure, reply }
    }
}

// === impl Upload ===

impl<'u, F: Future<Output = Result<(), PumpError>>> Upload<'u, F> {
    pub(super) fn new(future: Option<Pin<&'u mut F>>, timer: &'u Timer, timeout: Option<Duration>) -> Self {
        Self { future, timer, timeout, refused: false }
    }

    /// Whether the whole request was sent.
    pub(super) fn is_complete(&self) -> bool {
        self.future.is_none() && !self.refused
    }

    /// Runs `main` with the upload beside it. Fails as soon as the client fails; that the upstream takes no more is left
    /// to `main` to find out, since an answer may be on its way.
    pub(super) async fn beside<T>(&mut self, main: impl Future<Output = T>) -> Result<T, AttemptError> {
        let mut main = pin!(main);
        poll_fn(|cx| {
            if let Some(upload) = &mut self.future
                && let Poll::Ready(result) = upload.as_mut().poll(cx)
            {
                self.future = None;
                match result {
                    Ok(()) => self.timer.arm(Deadline::Route, self.timeout),
                    Err(PumpError::Source(error)) => return Poll::Ready(Err(error.into())),
                    Err(PumpError::Sink(_)) => self.refused = true,
                }
            }
            main.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

impl From<crate::http::body::SourceError> for AttemptError {
    fn from(error: crate::http::body::SourceError) -> Self {
        use crate::http::body::SourceError;
        Self::Downstream {
            malformed: matches!(error, SourceError::Malformed),
            timeout: matches!(error, SourceError::Timeout),
        }
    }
}
