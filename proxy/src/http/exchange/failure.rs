//! Attempts that came to nothing, and what the client is told about them.

use std::time::Duration;

use super::{Reason, Reply};
use crate::{http::body::SourceError, pool::AcquireError, route::retry::Failure};

/// What one attempt led to when it did not lead to a response.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The upstream failed before its response began.
    Upstream { failure: Failure, reply: FailureReply },
    /// The response is one that the client is not to see.
    Unwanted(Instead),
    /// The same, on a connection that had been idle: most likely it was just being closed.
    Stale { failure: Failure },
    /// The upstream's response is not HTTP as it should be.
    Protocol,
    /// The client failed or gave up, or its body is malformed.
    Downstream { malformed: bool, timeout: bool },
    /// The response began and cannot be completed.
    Started,
}

/// What is done instead of passing a response on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Instead {
    /// The request is sent again after this time: the retry policy wants it.
    Again(Duration),
    /// The response is a redirect, which is followed.
    Elsewhere,
}

/// What the client is told when there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureReply {
    ConnectFailure,
    ConnectTimeout,
    Overflow,
    /// The connection ended.
    Termination,
    /// Only the stream did.
    Reset,
    Timeout,
    /// The same, by a limit on pauses.
    Idle,
}

pub(super) fn overflow() -> Reply {
    Reply::new(
        503,
        Reason::UpstreamOverflow,
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    )
}

pub(super) fn protocol_error() -> Reply {
    Reply::new(
        502,
        Reason::UpstreamProtocol,
        "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
    )
}

pub(super) fn failure_reply(reply: FailureReply) -> Reply {
    match reply {
        FailureReply::ConnectFailure => Reply::new(
            503,
            Reason::ConnectFailure,
            "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
        ),
        FailureReply::ConnectTimeout => Reply::new(
            503,
            Reason::ConnectTimeout,
            "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
        ),
        FailureReply::Overflow => overflow(),
        FailureReply::Termination => Reply::new(
            503,
            Reason::UpstreamTermination,
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        ),
        FailureReply::Reset => Reply::new(
            503,
            Reason::UpstreamReset,
            "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
        ),
        FailureReply::Timeout => Reply::new(504, Reason::UpstreamPerTryTimeout, "upstream request timeout"),
        FailureReply::Idle => Reply::new(504, Reason::UpstreamPerTryIdle, "upstream request timeout"),
    }
}

// === impl AttemptError ===

impl From<AcquireError> for AttemptError {
    fn from(error: AcquireError) -> Self {
        let (failure, reply) = match error {
            AcquireError::Overflow => (Failure::Overflow, FailureReply::Overflow),
            AcquireError::Connect => (Failure::Connect, FailureReply::ConnectFailure),
            AcquireError::Timeout => (Failure::ConnectTimeout, FailureReply::ConnectTimeout),
        };
        Self::Upstream { failure, reply }
    }
}

impl From<SourceError> for AttemptError {
    fn from(error: SourceError) -> Self {
        Self::Downstream {
            malformed: matches!(error, SourceError::Malformed),
            timeout: matches!(error, SourceError::Timeout),
        }
    }
}
