//! When a failed request is tried again.
//!
//! # Guarantees
//! * A request whose bytes may have reached an upstream is sent again only if its method is idempotent (RFC 9110 9.2.2),
//!   whatever the policy says.
//! * A request is sent again only if its whole body can be sent again.

use std::time::Duration;

/// The policy of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    pub(crate) on: RetryOn,
    pub(crate) retries: u32,
    pub(crate) per_try_timeout: Option<Duration>,
    pub(crate) statuses: Vec<u16>,
    pub(crate) backoff_base: Duration,
    pub(crate) backoff_max: Duration,
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
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection: nothing was sent.
    Connect,
    /// The upstream refused the stream unprocessed (HTTP/2 REFUSED_STREAM, or GOAWAY before it).
    Refused,
    /// The connection ended before any of the request was written.
    ResetBeforeRequest,
    /// The connection ended before an answer.
    Reset,
    /// No answer in the time for one try.
    PerTryTimeout,
    /// An answer with this status.
    Status(u16),
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
                other => return Err(other.to_owned()),
            }
        }
        Ok(on)
    }
}

impl RetryPolicy {
    /// Whether the policy wants another try after `failure` of a request that is `idempotent` or not.
    pub(crate) fn wants(&self, failure: Failure, idempotent: bool) -> bool {
        let on = &self.on;
        match failure {
            Failure::Connect => on.connect_failure || on.server_error || on.gateway_error || on.reset,
            Failure::Refused => on.refused_stream || on.reset || on.server_error,
            Failure::ResetBeforeRequest => on.reset_before_request || on.reset || on.server_error,
            Failure::Reset => idempotent && (on.reset || on.server_error),
            Failure::PerTryTimeout => idempotent && (on.reset || on.server_error || on.gateway_error),
            Failure::Status(status) => {
                idempotent
                    && ((on.server_error && (500..600).contains(&status))
                        || (on.gateway_error && (502..=504).contains(&status))
                        || (on.retriable_4xx && status == 409)
                        || (on.retriable_status && self.statuses.contains(&status)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::parse(on).expect("known words"),
            retries: 1,
            per_try_timeout: None,
            statuses: vec![429],
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
        }
    }

    #[test]
    fn what_may_have_reached_the_upstream_is_repeated_only_when_idempotent() {
        let all = policy("5xx,reset,connect-failure,retriable-status-codes,gateway-error,refused-stream");
        for failure in [Failure::Reset, Failure::PerTryTimeout, Failure::Status(503), Failure::Status(429)] {
            assert!(all.wants(failure, true) && !all.wants(failure, false), "{failure:?}");
        }
        for failure in [Failure::Connect, Failure::Refused, Failure::ResetBeforeRequest] {
            assert!(all.wants(failure, false), "{failure:?}");
        }
    }

    #[test]
    fn conditions_are_those_of_the_list_and_unknown_ones_are_named() {
        assert!(!policy("connect-failure").wants(Failure::Status(503), true));
        assert!(policy("gateway-error").wants(Failure::Status(502), true));
        assert!(!policy("gateway-error").wants(Failure::Status(500), true));
        assert_eq!(RetryOn::parse("5xx, often"), Err("often".to_owned()));
    }
}
