//! When a failed request is tried again.
//!
//! # Guarantees
//! * A request whose bytes may have reached an upstream is sent again only if its method is idempotent (RFC 9110 9.2.2),
//!   whatever the policy says, with one exception: gRPC, whose calls all are POST. An answer of gRPC that is nothing but a
//!   status has not committed the call (gRPC proposal A6), and naming that status is how a service's owner says that its
//!   calls may be repeated then.
//! * A request is sent again only if its whole body can be sent again.
//! * Of many requests only a share is sent again: [`Breaker`](crate::cluster::breaker::Breaker) has the budget.

use std::time::Duration;

use super::{
    backoff::{BackOff, RateLimited},
    matcher::HeaderMatch,
};
use crate::http::head::Head;

/// The policy of a route.
#[derive(Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) on: RetryOn,
    pub(crate) retries: u32,
    pub(crate) per_try_timeout: Option<Duration>,
    /// For a pause of the upstream, within one try.
    pub(crate) per_try_idle_timeout: Option<Duration>,
    pub(crate) statuses: Vec<u16>,
    /// An answer with any of these is one to retry, if `on` says so.
    pub(crate) response_fields: Vec<HeaderMatch>,
    /// Only requests with any of these are retried; empty is all.
    pub(crate) request_fields: Vec<HeaderMatch>,
    pub(crate) back_off: BackOff,
    pub(crate) rate_limited: Option<RateLimited>,
}

/// The conditions, by Envoy's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RetryOn {
    pub(crate) connect_failure: bool,
    pub(crate) refused_stream: bool,
    pub(crate) reset: bool,
    pub(crate) reset_before_request: bool,
    pub(crate) server_error: bool,
    pub(crate) gateway_error: bool,
    pub(crate) retriable_4xx: bool,
    pub(crate) retriable_status: bool,
    pub(crate) retriable_headers: bool,
    /// Answers marked with `x-envoy-ratelimited`, which else are not retried.
    pub(crate) rate_limited: bool,
    /// Statuses of gRPC.
    pub(crate) grpc: Vec<u32>,
}

/// How an attempt failed that had no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection, and that was clear at once: nothing was sent.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// A limit of ours left no room for it: to try again would make room scarcer.
    Overflow,
    /// The upstream refused the stream unprocessed (HTTP/2 REFUSED_STREAM, or GOAWAY before it).
    Refused,
    /// The connection ended before any of the request was written.
    ResetBeforeRequest,
    /// The connection ended before an answer.
    Reset,
    /// No answer in the time for one try.
    PerTryTimeout,
}

/// What a request is to whoever might repeat it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) idempotent: bool,
    pub(crate) grpc: bool,
}

impl RetryOn {
    /// Reads Envoy's comma-separated list; an unknown word is the error.
    pub(crate) fn parse(list: &str) -> Result<Self, String> {
        let mut on = Self::default();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "connect-failure" => on.connect_failure = true,
                "refused-stream" => on.refused_stream = true,
                "reset" => on.reset = true,
                "reset-before-request" => on.reset_before_request = true,
                "5xx" => on.server_error = true,
                "gateway-error" => on.gateway_error = true,
                "retriable-4xx" => on.retriable_4xx = true,
                "retriable-status-codes" => on.retriable_status = true,
                "retriable-headers" => on.retriable_headers = true,
                "envoy-ratelimited" => on.rate_limited = true,
                "cancelled" => on.grpc.push(1),
                "deadline-exceeded" => on.grpc.push(4),
                "resource-exhausted" => on.grpc.push(8),
                "internal" => on.grpc.push(13),
                "unavailable" => on.grpc.push(14),
                other => return Err(other.to_owned()),
            }
        }
        Ok(on)
    }
}

impl Failure {
    /// Whether it was no load for any upstream: nobody was there, and that took no time.
    pub(crate) fn is_unnoticed(self) -> bool {
        matches!(self, Self::Connect | Self::ResetBeforeRequest)
    }

    /// Whether it is certain that the upstream did nothing for the request.
    pub(crate) fn is_unprocessed(self) -> bool {
        matches!(
            self,
            Self::Connect | Self::ConnectTimeout | Self::Overflow | Self::Refused | Self::ResetBeforeRequest
        )
    }
}

impl RetryPolicy {
    /// Whether the policy is for this request.
    pub(crate) fn is_for(&self, request: &Head) -> bool {
        self.request_fields.is_empty() || self.request_fields.iter().any(|field| field.matches(request))
    }

    /// Whether the policy wants another try after `failure` of a request that is `idempotent` or not.
    pub(crate) fn wants(&self, failure: Failure, idempotent: bool) -> bool {
        let on = &self.on;
        match failure {
            Failure::Connect | Failure::ConnectTimeout => {
                on.connect_failure || on.server_error || on.gateway_error || on.reset
            }
            Failure::Overflow => false,
            Failure::Refused => on.refused_stream || on.reset || on.server_error,
            Failure::ResetBeforeRequest => on.reset_before_request || on.reset || on.server_error,
            Failure::Reset => idempotent && (on.reset || on.server_error),
            Failure::PerTryTimeout => idempotent && (on.reset || on.server_error || on.gateway_error),
        }
    }

    /// Whether the policy wants another try instead of this answer.
    pub(crate) fn wants_instead_of(&self, response: &Head, asked: Asked) -> bool {
        let (on, status) = (&self.on, response.status);
        if response.get(b"x-envoy-ratelimited").is_some() {
            return on.rate_limited && asked.idempotent;
        }
        if asked.grpc && !on.grpc.is_empty() && is_status_of(response, &on.grpc) {
            return true;
        }
        asked.idempotent
            && ((on.server_error && (500..600).contains(&status))
                || (on.gateway_error && (502..=504).contains(&status))
                || (on.retriable_4xx && status == 409)
                || (on.retriable_status && self.statuses.contains(&status))
                || (on.retriable_headers && self.response_fields.iter().any(|field| field.matches(response))))
    }
}

/// Whether the head is a whole gRPC answer with one of these statuses.
fn is_status_of(response: &Head, statuses: &[u32]) -> bool {
    let status =
        response.get(b"grpc-status").and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
    status.is_some_and(|status| statuses.contains(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Asked = Asked { idempotent: true, grpc: false };
    const POST: Asked = Asked { idempotent: false, grpc: false };
    const GRPC: Asked = Asked { idempotent: false, grpc: true };

    fn policy(on: &str) -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::parse(on).expect("known words"),
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            statuses: vec![429],
            response_fields: Vec::new(),
            request_fields: Vec::new(),
            back_off: BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
            rate_limited: None,
        }
    }

    fn answer(status: u16, fields: &[(&[u8], &[u8])]) -> Head {
        let mut head = Head::default();
        head.status = status;
        for (name, value) in fields {
            head.append(name, value);
        }
        head
    }

    #[test]
    fn what_may_have_reached_the_upstream_is_repeated_only_when_idempotent() {
        let all = policy("5xx,reset,connect-failure,retriable-status-codes,gateway-error,refused-stream");
        for failure in [Failure::Reset, Failure::PerTryTimeout] {
            assert!(all.wants(failure, true) && !all.wants(failure, false), "{failure:?}");
        }
        for status in [503, 429] {
            let answer = answer(status, &[]);
            assert!(all.wants_instead_of(&answer, GET) && !all.wants_instead_of(&answer, POST), "{status}");
        }
        for failure in
            [Failure::Connect, Failure::ConnectTimeout, Failure::Refused, Failure::ResetBeforeRequest]
        {
            assert!(all.wants(failure, false), "{failure:?}");
        }
        assert!(!all.wants(Failure::Overflow, true), "what found no room");
    }

    #[test]
    fn conditions_are_those_of_the_list_and_unknown_ones_are_named() {
        assert!(!policy("connect-failure").wants_instead_of(&answer(503, &[]), GET));
        assert!(policy("gateway-error").wants_instead_of(&answer(502, &[]), GET));
        assert!(!policy("gateway-error").wants_instead_of(&answer(500, &[]), GET));
        assert_eq!(RetryOn::parse("5xx, often"), Err("often".to_owned()));
    }

    #[test]
    fn a_status_of_grpc_counts_if_named_and_for_grpc_only() {
        let unavailable = answer(200, &[(b"grpc-status", b"14")]);
        assert!(policy("cancelled,unavailable").wants_instead_of(&unavailable, GRPC));
        assert!(!policy("cancelled,internal").wants_instead_of(&unavailable, GRPC));
        assert!(!policy("unavailable").wants_instead_of(&unavailable, GET));
        assert!(!policy("unavailable").wants_instead_of(&answer(200, &[(b"grpc-status", b"0")]), GRPC));
    }

    #[test]
    fn a_rate_limited_answer_is_retried_only_if_that_is_said() {
        let limited = answer(503, &[(b"x-envoy-ratelimited", b"true")]);
        assert!(!policy("5xx").wants_instead_of(&limited, GET));
        assert!(policy("envoy-ratelimited").wants_instead_of(&limited, GET));
    }
}
