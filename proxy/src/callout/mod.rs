//! Requests of our own: what a data thread asks another service before it goes on with a client's request, or tells it in
//! passing.
//!
//! # Guarantees
//! * A call goes the way of a forwarded request: the cluster's circuit limits, balancing, pools, outlier detection and
//!   counters all apply to it.
//! * A call that is dropped is over: its HTTP/1 connection closes and its HTTP/2 stream is reset. A connection returns to
//!   its pool only after a complete, well-formed exchange with nothing left over.
//! * An answer takes no more memory than its limit.
//!
//! # Caveats
//! * Nothing is retried but what never reached the service: a request on a connection that was just being closed.

pub(crate) mod grpc;
mod h1;
mod h2;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    balance::{Ask, Chooser, pick},
    cluster::{
        Cluster, UpstreamProtocol,
        breaker::{Permit, Priority},
        endpoint::Endpoint,
    },
    http::{
        body::{Source, SourceError, Trailers},
        decimal::Decimal,
        exchange::Attempt,
        head::{Head, Version},
    },
    pool::{AcquireError, Wanted},
    proxy_protocol::Addresses,
    worker::{Worker, timer::Timer},
};

/// One request to a cluster.
#[derive(Clone, Copy)]
pub(crate) struct Call<'c> {
    pub(crate) worker: &'c Worker,
    pub(crate) cluster: &'c Arc<Cluster>,
    /// Method, target, authority and fields; fields of framing are made anew. Its version counts where the cluster speaks
    /// what the client does.
    pub(crate) head: &'c Head,
    pub(crate) body: &'c Bytes,
    pub(crate) priority: Priority,
    /// What affinity goes by.
    pub(crate) hash: Option<u64>,
    /// For whom it is made: told to clusters that want the PROXY protocol.
    pub(crate) client: Addresses,
    /// From now to the end of the answer.
    pub(crate) timeout: Option<Duration>,
    pub(crate) keep: Keep,
}

/// How much of an answer's body is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of it, unless it is longer than this.
    Within(usize),
    /// None of it, however long it is.
    #[allow(dead_code, reason = "who asks wants to know; it is for mirrored requests")]
    Nothing,
}

/// What the service said.
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Trailers,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the cluster is not known")]
    NoCluster,
    #[error("no healthy upstream")]
    NoEndpoint,
    /// A circuit limit is reached.
    #[error("overflow")]
    Overflow,
    #[error("cannot connect")]
    Connect,
    #[error("no answer in time")]
    Timeout,
    /// The connection or the stream ended before the answer did.
    #[error("the answer was cut off")]
    Reset,
    /// What came is no answer, or the request cannot be said in the upstream's protocol.
    #[error("not a valid answer")]
    Protocol,
    #[error("the answer is too large")]
    TooLarge,
}

/// Why an attempt gave no answer.
enum Stuck {
    Failed(Failure),
    /// The connection had been idle and most likely was just being closed; the request may go again.
    Stale,
}

/// Tells a service what Envoy tells those that it asks itself: that a proxy asks, and how long it waits.
pub(crate) fn announce(head: &mut Head, timeout: Option<Duration>) {
    head.append(b"x-envoy-internal", b"true");
    if let Some(timeout) = timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        head.append(b"x-envoy-expected-rq-timeout-ms", &Decimal::new(millis));
    }
}

// === impl Call ===

impl Call<'_> {
    /// Sends the request and waits for the whole answer.
    pub(crate) async fn send(&self) -> Result<Answer, Failure> {
        let cells = self.cluster.stats.at(self.worker.index);
        let breaker = self.cluster.breaker_of(self.priority);
        let Some(_permit) = Permit::take(&breaker.requests, breaker.limits.requests) else {
            cells.rq_pending_overflow.add(1);
            return Err(Failure::Overflow);
        };
        let started = Instant::now();
        let timer = self.worker.timers.register([]);
        let turns = self.worker.pools.local(self.cluster);
        let mut fresh = false;
        loop {
            let chooser =
                Chooser { turns: &turns.turns, random: &self.worker.random, worker: self.worker.index };
            let Some(endpoint) = pick(self.cluster, chooser, &Ask { hash: self.hash, ..Ask::default() })
            else {
                cells.cx_none_healthy.add(1);
                return Err(Failure::NoEndpoint);
            };
            // Kilobytes, and the future of whoever calls should not grow by them.
            match Box::pin(self.attempt(&endpoint, &timer, started, fresh)).await {
                Ok(answer) => return Ok(answer),
                Err(Stuck::Failed(failure)) => return Err(failure),
                Err(Stuck::Stale) if fresh => return Err(Failure::Reset),
                Err(Stuck::Stale) => fresh = true,
            }
        }
    }

    async fn attempt(
        &self,
        endpoint: &Arc<Endpoint>,
        timer: &Timer,
        started: Instant,
        fresh: bool,
    ) -> Result<Answer, Stuck> {
        let index = self.worker.index;
        let mut counted = Attempt::start(self.cluster, endpoint, index, started);
        let local = self.worker.pools.local(self.cluster);
        let wanted = Wanted {
            priority: self.priority,
            cluster: self.cluster,
            local: &local,
            endpoint,
            worker: index,
            timer,
            client: self.client,
            fresh,
        };
        let talk = async {
            if self.speaks_http2() {
                self.over_h2(&wanted, &mut counted).await
            } else {
                self.over_h1(&wanted, &mut counted).await
            }
        };
        // Its own timer and not the worker's coarse one: what a client waits for is given milliseconds.
        let result = match self.timeout {
            None => Ok(talk.await),
            Some(timeout) => tokio::time::timeout_at(started + timeout, talk).await,
        };
        result.unwrap_or_else(|_| {
            counted.failed(true);
            counted.cells().rq_timeout.add(1);
            Err(Failure::Timeout.into())
        })
    }

    fn speaks_http2(&self) -> bool {
        match self.cluster.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Downstream => self.head.version == Version::Http2,
        }
    }

    /// Reads the body that follows `head` as far as it is wanted.
    async fn collect(
        &self,
        head: Head,
        mut source: Source<'_>,
        counted: &mut Attempt<'_>,
    ) -> Result<Answer, Failure> {
        let mut body = Vec::new();
        let whole = source
            .each(|data| match self.keep {
                Keep::Nothing => true,
                Keep::Within(limit) if body.len() + data.len() > limit => false,
                Keep::Within(_) => {
                    body.extend_from_slice(data);
                    true
                }
            })
            .await;
        counted.cells().cx_rx_bytes.add(source.received());
        let failure = match whole {
            Ok(Some(trailers)) => {
                counted.completed();
                return Ok(Answer { head, body, trailers });
            }
            // Ours and not the endpoint's fault.
            Ok(None) => return Err(Failure::TooLarge),
            Err(SourceError::Malformed) => Failure::Protocol,
            Err(SourceError::Timeout) => Failure::Timeout,
            Err(SourceError::Closed) => Failure::Reset,
        };
        counted.failed(false);
        Err(failure)
    }
}

// === impl Stuck ===

impl From<Failure> for Stuck {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<AcquireError> for Stuck {
    fn from(error: AcquireError) -> Self {
        Self::Failed(match error {
            AcquireError::Overflow => Failure::Overflow,
            AcquireError::Connect => Failure::Connect,
            AcquireError::Timeout => Failure::Timeout,
        })
    }
}
