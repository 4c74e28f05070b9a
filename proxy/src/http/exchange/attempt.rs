//! Forwarding, with retries.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Exchange, Outcome, Reason, Reply,
    account::Attempt,
    failure::{AttemptError, FailureReply, Instead, failure_reply, overflow, protocol_error},
    hedge::Hedged,
    limits::Limits,
    mirror::Copies,
    retrying::{Retrying, Verdict},
    rewrite::ATTEMPT_COUNT,
};
use crate::{
    balance::Ask,
    cluster::{Cluster, UpstreamProtocol, breaker::Permit, endpoint::Endpoint},
    http::{
        body::{Sink, Source},
        h1::framing::BodyLength,
        head::{Method, Span, Version},
    },
    route::{Action, Forward, Route, Target, WeightedCluster, affinity::Affine, retry::Failure},
    worker::timer::Deadline,
};

/// Everything about the current attempt that both protocols need.
pub(super) struct Try<'t> {
    pub(super) cluster: &'t Arc<Cluster>,
    pub(super) endpoint: &'t Arc<Endpoint>,
    pub(super) route: &'t Route,
    /// The same, to keep.
    pub(super) shared_route: &'t Arc<Route>,
    /// What goes to further clusters too, once the body has come.
    pub(super) copies: Option<&'t Copies>,
    pub(super) weighted: Option<&'t WeightedCluster>,
    pub(super) forward: &'t Forward,
    /// In the text of the request.
    pub(super) host: Span,
    pub(super) length: BodyLength,
    pub(super) retrying: &'t Retrying<'t>,
    /// Whether the request could be sent again after an answer.
    pub(super) replayable: bool,
    /// Longest pause of the response body.
    pub(super) patience: Option<Duration>,
    /// What the client is given, to come back to where it goes now.
    pub(super) cookies: &'t [Vec<u8>],
    pub(super) limits: &'t Limits,
    /// Never use a connection that has been idle.
    pub(super) fresh: bool,
    /// The head of the answer is there, and it is the one to pass on.
    pub(super) answered: bool,
    pub(super) started: Instant,
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
            return self.reply(Reply::new(500, Reason::DirectResponse, ""), source, sink).await;
        };
        let (meant, weighted) = match &forward.target {
            Target::One(meant) => (meant, None),
            Target::Weighted { clusters, .. } => match clusters.get(self.weighted) {
                Some(weighted) => (&weighted.cluster, Some(weighted)),
                None => {
                    return self.reply(Reply::new(503, Reason::ClusterNotFound, ""), source, sink).await;
                }
            },
        };
        let Some(cluster) = meant.get(self.request) else {
            self.cx.manager.stats.at(self.cx.worker.index).no_cluster.add(1);
            return self
                .reply(Reply::new(forward.no_cluster_status, Reason::ClusterNotFound, ""), source, sink)
                .await;
        };
        self.record.cluster = Some(Arc::clone(&cluster.name));
        let breaker = cluster.breaker_of(forward.priority);
        let Some(_permit) = Permit::take(&breaker.requests, breaker.limits.requests) else {
            cluster.stats.at(self.cx.worker.index).rq_pending_overflow.add(1);
            return self.reply(self.noted(overflow(), forward), source, sink).await;
        };
        self.rewrite(route, forward, weighted);
        let mut copies = self.copies(forward, weighted);
        if let Some(body) = source.complete()
            && let Some(copies) = copies.take()
        {
            copies.take(body);
            copies.send();
        }
        let limits = Limits::new(self, forward);
        let all_there = source.is_done() || source.complete().is_some();
        self.timer.arm(Deadline::Route, if all_there { limits.of_response() } else { limits.of_request() });
        let timer = self.timer;
        // Pinned here and not moved again: as a value it is kilobytes to copy, for every request.
        let result = {
            let attempts = pin!(self.attempts(
                &cluster,
                route,
                copies.as_deref(),
                forward,
                weighted,
                &limits,
                source,
                sink,
                length
            ));
            timer.limit(Deadline::Route, attempts).await
        };
        timer.disarm(Deadline::Route);
        match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(reply)) => self.reply(self.noted(reply, forward), source, sink).await,
            Err(_) => {
                let reply = limits.exceeded(source.is_done() || source.complete().is_some());
                self.count_exceeded(&reply, &cluster);
                if sink.is_touched() || self.record.status != 0 {
                    self.record.reason = reply.reason;
                    return Outcome::Broken;
                }
                self.reply(self.noted(reply, forward), source, sink).await
            }
        }
    }

    /// The answer when there is nowhere to send the request.
    pub(super) fn no_endpoint(&self) -> Reply {
        let session = self.record.session.as_ref().filter(|session| session.wanted.is_some());
        let status = session.map_or(503, |session| session.status);
        Reply::new(status, Reason::NoHealthyUpstream, "no healthy upstream")
    }

    /// Whether the request goes to this cluster over HTTP/2.
    pub(super) fn speaks_http2(&self, cluster: &Cluster) -> bool {
        let http2 = match cluster.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Downstream => self.version == Version::Http2,
        };
        http2 && self.upgrade.is_none()
    }

    /// An answer in place of the upstream's, with what the client is to know about attempts.
    fn noted(&self, mut reply: Reply, forward: &Forward) -> Reply {
        if forward.notes.in_response {
            reply.fields.push((ATTEMPT_COUNT, self.record.attempts.max(1).to_string().into_bytes()));
        }
        reply
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "borrows that live for one call; a struct would only be unpacked again"
    )]
    async fn attempts(
        &mut self,
        cluster: &Arc<Cluster>,
        route: &Arc<Route>,
        copies: Option<&Copies>,
        forward: &Forward,
        weighted: Option<&WeightedCluster>,
        limits: &Limits,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
        length: BodyLength,
    ) -> Result<Outcome, Reply> {
        let worker = &self.cx.worker;
        let local = worker.pools.local(cluster);
        let patience = forward.idle_timeout.or(self.cx.manager.timeouts.stream_idle);
        let within_try = forward.retry.as_ref().and_then(|policy| policy.per_try_idle_timeout);
        let patience = within_try.into_iter().chain(patience).min();
        let retrying = Retrying::new(self, cluster, forward);
        let mut tried: Vec<u64> = Vec::new();
        let mut stale_before = false;
        let mut after_timeout = false;
        let mut started = self.started;
        let affine =
            if cluster.balancing.policy.is_hash() { self.affine(forward) } else { Affine::default() };
        let criteria = weighted.map_or(&forward.criteria, |weighted| &weighted.criteria).as_deref();
        if forward.hedge_on_timeout
            && retrying.may_hedge()
            && self.upgrade.is_none()
            && let Some(body) = source.complete()
        {
            let hedged = Hedged {
                cluster,
                local: &local,
                route,
                weighted,
                forward,
                length,
                retrying: &retrying,
                patience,
                affine: &affine,
                criteria,
                limits,
                body: Bytes::copy_from_slice(body),
                http2: self.speaks_http2(cluster),
            };
            return Box::pin(self.attempts_hedged(&hedged, source, sink)).await;
        }
        loop {
            let endpoint = self.choose(cluster, &local, &Ask { hash: affine.hash, tried: &tried, criteria });
            let Some(endpoint) = endpoint else {
                cluster.stats.at(worker.index).cx_none_healthy.add(1);
                return Err(self.no_endpoint());
            };
            self.record.upstream = Some(Arc::clone(&endpoint));
            self.record.attempts += 1;
            self.announce_attempt(forward.notes, after_timeout);
            let within_try = forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
            self.announce_limits(limits, within_try);
            let host = self.upstream_host(forward, weighted, &endpoint);
            let attempt = Try {
                cluster,
                endpoint: &endpoint,
                route,
                shared_route: route,
                copies,
                weighted,
                forward,
                host,
                length,
                retrying: &retrying,
                replayable: source.complete().is_some(),
                patience,
                cookies: &affine.cookies,
                limits,
                fresh: stale_before,
                answered: false,
                started,
            };
            let http2 = self.speaks_http2(cluster);
            let result = if forward.terminates_connect && self.method == Method::Connect {
                Box::pin(self.attempt_connect(&local, &attempt, sink)).await
            } else if http2 {
                Box::pin(self.attempt_h2(&local, &attempt, source, sink)).await
            } else {
                self.attempt_h1(&local, &attempt, source, sink).await
            };
            let (failure, reply) = match result {
                Ok(outcome) => return Ok(outcome),
                Err(AttemptError::Started) => return Ok(Outcome::Broken),
                // The exchange goes on from its start.
                Err(AttemptError::Unwanted(Instead::Elsewhere)) => return Ok(Outcome::Broken),
                Err(AttemptError::Unwanted(Instead::Again(wait))) => {
                    after_timeout = false;
                    tried.push(endpoint.id);
                    pause(wait).await;
                    started = Instant::now();
                    continue;
                }
                Err(AttemptError::Protocol) => return Err(protocol_error()),
                Err(AttemptError::Downstream { malformed, timeout }) => {
                    if sink.is_touched() || self.record.status != 0 {
                        self.record.reason = match (malformed, timeout) {
                            (true, _) => Reason::Http1Codec,
                            (_, true) => Reason::StreamIdleTimeout,
                            _ => Reason::DownstreamDisconnect,
                        };
                        return Ok(Outcome::Broken);
                    }
                    self.close = true;
                    return Err(match (malformed, timeout) {
                        (true, _) => Reply::new(400, Reason::Http1Codec, ""),
                        (_, true) => Reply::new(408, Reason::StreamIdleTimeout, "stream timeout"),
                        _ => {
                            self.record.reason = Reason::DownstreamDisconnect;
                            return Ok(Outcome::Broken);
                        }
                    });
                }
                Err(AttemptError::Stale { failure }) => {
                    let sent_again = source.complete().is_some() || source.received() == 0;
                    let harmless = retrying.asked.idempotent || failure.is_unprocessed();
                    if !stale_before && sent_again && harmless {
                        // No retry in the sense of the policy: this connection never served this request.
                        stale_before = true;
                        continue;
                    }
                    (failure, FailureReply::Termination)
                }
                Err(AttemptError::Upstream { failure, reply }) => (failure, reply),
            };
            let replayable =
                self.record.status == 0 && (source.complete().is_some() || source.received() == 0);
            match retrying.after(failure, replayable) {
                Verdict::Again(wait) => {
                    after_timeout = failure == Failure::PerTryTimeout;
                    tried.push(endpoint.id);
                    pause(wait).await;
                    started = Instant::now();
                }
                verdict => {
                    self.record.retries_exhausted = verdict == Verdict::Exhausted;
                    return Err(failure_reply(reply));
                }
            }
        }
    }
}

async fn pause(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

// === impl Try ===

impl Try<'_> {
    /// How long the upstream may take to begin its answer.
    pub(super) fn time_to_answer(&self) -> Option<Duration> {
        let policy = self.forward.retry.as_ref()?;
        policy.per_try_timeout.into_iter().chain(policy.per_try_idle_timeout).min()
    }

    /// Takes note that this time is over.
    pub(super) fn timed_out(&self, counted: &mut Attempt<'_>) -> AttemptError {
        counted.failed(true);
        let policy = self.forward.retry.as_ref();
        let within_try = policy.and_then(|policy| policy.per_try_timeout);
        let reply = if within_try.is_some() && within_try == self.time_to_answer() {
            counted.cells().rq_per_try_timeout.add(1);
            FailureReply::Timeout
        } else {
            counted.cells().rq_per_try_idle_timeout.add(1);
            FailureReply::Idle
        };
        AttemptError::Upstream { failure: Failure::PerTryTimeout, reply }
    }
}
