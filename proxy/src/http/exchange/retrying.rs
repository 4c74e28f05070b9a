//! Whether a request gets another attempt.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::Exchange;
use crate::{
    cluster::{
        Cluster,
        breaker::{Breaker, Permit, Priority},
    },
    http::head::Head,
    metrics::ClusterCells,
    route::{
        Forward,
        retry::{Asked, Failure, RetryOn, RetryPolicy},
    },
    worker::Worker,
};

/// What is left of a request's chances at a cluster.
pub(super) struct Retrying<'r> {
    cluster: &'r Arc<Cluster>,
    worker: &'r Worker,
    /// `None` if nothing about this request is retried.
    policy: Option<&'r RetryPolicy>,
    priority: Priority,
    pub(super) asked: Asked,
    made: Cell<u32>,
    /// Held from the first retry on.
    permit: Cell<Option<Permit>>,
}

/// What becomes of a request after an attempt that was not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried again after this time.
    Again(Duration),
    /// Nobody wants another attempt.
    Settled,
    /// There were as many attempts as the policy allows.
    Exhausted,
    /// As many requests as the cluster can bear are being retried.
    Overflow,
}

// === impl Retrying ===

impl<'r> Retrying<'r> {
    pub(super) fn new(
        exchange: &Exchange<'r>,
        cluster: &'r Arc<Cluster>,
        forward: &'r Forward,
    ) -> Retrying<'r> {
        let policy = forward.retry.as_deref().filter(|policy| policy.is_for(exchange.request));
        let asked = Asked {
            idempotent: exchange.method.is_idempotent(),
            grpc: policy.is_some() && exchange.request.is_grpc(),
        };
        if policy.is_some() {
            cluster.breaker_of(forward.priority).may_retry();
        }
        let worker = &exchange.cx.worker;
        Self {
            cluster,
            worker,
            policy,
            priority: forward.priority,
            asked,
            made: Cell::new(0),
            permit: Cell::new(None),
        }
    }

    /// Decides after an attempt without an answer; `replayable` says whether the request is all still there.
    pub(super) fn after(&self, failure: Failure, replayable: bool) -> Verdict {
        match self.policy {
            Some(policy) if replayable && policy.wants(failure, self.asked.idempotent) => {
                let free = failure.is_unnoticed() && self.breaker().lets_unnoticed_be_repeated();
                self.claim(policy, None, free)
            }
            _ => Verdict::Settled,
        }
    }

    /// Decides after an answer.
    pub(super) fn after_answer(&self, response: &Head, replayable: bool) -> Verdict {
        let Some(policy) = self.policy else { return Verdict::Settled };
        if policy.wants_instead_of(response, self.asked) {
            return if replayable { self.claim(policy, Some(response), false) } else { Verdict::Settled };
        }
        if self.made.get() > 0 {
            self.cells().rq_retry_success.add(1);
        }
        Verdict::Settled
    }

    /// Whether there may be several attempts at once: what nobody would repeat is not doubled either.
    pub(super) fn may_hedge(&self) -> bool {
        self.asked.idempotent && self.policy.is_some_and(|policy| policy.on != RetryOn::default())
    }

    /// Decides about another attempt beside one that takes too long. As in Envoy, that needs no condition of its own.
    pub(super) fn beside(&self) -> Verdict {
        self.policy.map_or(Verdict::Settled, |policy| self.claim(policy, None, false))
    }

    /// Whether this answer is one that the policy would have no client see.
    pub(super) fn is_unwanted(&self, response: &Head) -> bool {
        self.policy.is_some_and(|policy| policy.wants_instead_of(response, self.asked))
    }

    /// Takes the right to another attempt, unless that is `free`.
    fn claim(&self, policy: &RetryPolicy, response: Option<&Head>, free: bool) -> Verdict {
        let cells = self.cells();
        let made = self.made.get();
        if made >= policy.retries {
            cells.rq_retry_limit_exceeded.add(1);
            return if policy.retries == 0 { Verdict::Settled } else { Verdict::Exhausted };
        }
        if !free {
            let Some(permit) = self.breaker().retry(self.permit.take()) else {
                cells.rq_retry_overflow.add(1);
                return Verdict::Overflow;
            };
            self.permit.set(Some(permit));
        }
        self.made.set(made + 1);
        cells.rq_retry.add(1);
        let random = &self.worker.random;
        let asked = policy
            .rate_limited
            .as_ref()
            .zip(response)
            .and_then(|(limited, response)| limited.wait(response, SystemTime::now(), random));
        Verdict::Again(match asked {
            Some(wait) => {
                cells.rq_retry_backoff_ratelimited.add(1);
                wait
            }
            None => {
                cells.rq_retry_backoff_exponential.add(1);
                policy.back_off.wait(made, random)
            }
        })
    }

    fn breaker(&self) -> &Breaker {
        self.cluster.breaker_of(self.priority)
    }

    fn cells(&self) -> &ClusterCells {
        self.cluster.stats.at(self.worker.index)
    }
}
