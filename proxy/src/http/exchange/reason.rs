//! Why a response is what it is, and whose doing that was.
//!
//! One enum stands for everything that is said about it: Envoy's response flag, Envoy's response code details, and the
//! label of the error counter. So the three cannot contradict each other, and there are never more label values than
//! variants.

use crate::http::{body::SourceError, h1::write::WriteError};

/// How an exchange (or a TCP connection) got its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reason {
    /// The response is the upstream's, as it should be.
    #[default]
    ViaUpstream,
    /// A route answers by itself.
    DirectResponse,
    RouteNotFound,
    ClusterNotFound,
    NoHealthyUpstream,
    /// A circuit breaker is open.
    UpstreamOverflow,
    ConnectFailure,
    ConnectTimeout,
    /// The upstream closed the connection before its response began.
    UpstreamTermination,
    /// The upstream reset the stream before its response began.
    UpstreamReset,
    /// What the upstream sent is not a response.
    UpstreamProtocol,
    UpstreamTimeout,
    UpstreamPerTryTimeout,
    /// The upstream said nothing for the longest pause of one try.
    UpstreamPerTryIdle,
    /// The upstream closed the connection in the middle of its response.
    UpstreamCut,
    /// The upstream broke the framing in the middle of its response.
    UpstreamGarbled,
    /// The upstream stopped in the middle of its response.
    UpstreamSilent,
    DownstreamDisconnect,
    /// The client stopped in the middle of its request, or takes no more of the response.
    StreamIdleTimeout,
    RequestHeaderTimeout,
    RequestTimeout,
    MaxDurationTimeout,
    /// The bytes are not HTTP/1.
    Http1Codec,
    /// Body framing that two readers could understand differently.
    Http1Framing,
    Http1Url,
    Http1HeadersTooLarge,
    TooManyHeaders,
    UnexpectedUnderscore,
    MissingHost,
    /// `Connection` nominates what is not the client's to take away.
    ConnectionNomination,
    HttpVersion,
    Connect,
    Expectation,
    /// The frames are HTTP/2 but the message is none.
    Http2Messaging,
    PathNormalization,
    UpgradeFailed,
    /// This proxy protects itself.
    Overload,
    /// The fault filter was told to fail.
    FaultAbort,
    LocalRateLimited,
    RbacDenied,
    /// The CORS filter tells a browser what it may ask.
    CorsPreflight,
    /// The health check filter says that all is well.
    HealthCheckOk,
    HealthCheckFailed,
    /// A request has been here before, too often.
    CdnLoop,
    CdnLoopInvalid,
    /// No token, or one that is not good.
    JwtDenied,
    /// Another service does not allow it, could not be asked, or wants what cannot be said.
    ExtAuthzDenied,
    ExtAuthzError,
    ExtAuthzInvalid,
    /// The service that counts says that it is too much, or could not be asked.
    RateLimited,
    RateLimitFailed,
    /// There is more of a request than a filter waits for.
    RequestPayloadTooLarge,
    /// What should be base64 is not.
    GrpcWebBase64,
    /// Too many requests fail.
    AdmissionControl,
    /// As many requests as are good for the upstream are on their way.
    ConcurrencyLimit,
    /// A filter that comes by extension discovery is not there.
    FilterConfigNotFound,
}

impl Reason {
    /// Every variant, in the order of their numbers.
    pub(crate) const ALL: [Self; 56] = [
        Self::ViaUpstream,
        Self::DirectResponse,
        Self::RouteNotFound,
        Self::ClusterNotFound,
        Self::NoHealthyUpstream,
        Self::UpstreamOverflow,
        Self::ConnectFailure,
        Self::ConnectTimeout,
        Self::UpstreamTermination,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::UpstreamTimeout,
        Self::UpstreamPerTryTimeout,
        Self::UpstreamPerTryIdle,
        Self::UpstreamCut,
        Self::UpstreamGarbled,
        Self::UpstreamSilent,
        Self::DownstreamDisconnect,
        Self::StreamIdleTimeout,
        Self::RequestHeaderTimeout,
        Self::RequestTimeout,
        Self::MaxDurationTimeout,
        Self::Http1Codec,
        Self::Http1Framing,
        Self::Http1Url,
        Self::Http1HeadersTooLarge,
        Self::TooManyHeaders,
        Self::UnexpectedUnderscore,
        Self::MissingHost,
        Self::ConnectionNomination,
        Self::HttpVersion,
        Self::Connect,
        Self::Expectation,
        Self::Http2Messaging,
        Self::PathNormalization,
        Self::UpgradeFailed,
        Self::Overload,
        Self::FaultAbort,
        Self::LocalRateLimited,
        Self::RbacDenied,
        Self::CorsPreflight,
        Self::HealthCheckOk,
        Self::HealthCheckFailed,
        Self::CdnLoop,
        Self::CdnLoopInvalid,
        Self::JwtDenied,
        Self::ExtAuthzDenied,
        Self::ExtAuthzError,
        Self::ExtAuthzInvalid,
        Self::RateLimited,
        Self::RateLimitFailed,
        Self::RequestPayloadTooLarge,
        Self::GrpcWebBase64,
        Self::AdmissionControl,
        Self::ConcurrencyLimit,
        Self::FilterConfigNotFound,
    ];

    /// Envoy's response flag; empty if the response is what was asked for.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::ViaUpstream
            | Self::DirectResponse
            | Self::UpgradeFailed
            | Self::RbacDenied
            | Self::CorsPreflight
            | Self::HealthCheckOk
            | Self::CdnLoop
            | Self::CdnLoopInvalid
            | Self::JwtDenied
            | Self::RequestPayloadTooLarge
            | Self::GrpcWebBase64
            | Self::AdmissionControl
            | Self::ConcurrencyLimit => "",
            Self::RouteNotFound => "NR",
            Self::ClusterNotFound => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamOverflow => "UO",
            Self::ConnectFailure | Self::ConnectTimeout => "UF",
            Self::UpstreamTermination | Self::UpstreamCut => "UC",
            Self::UpstreamReset => "UR",
            Self::UpstreamProtocol | Self::UpstreamGarbled => "UPE",
            Self::UpstreamTimeout | Self::UpstreamPerTryTimeout => "UT",
            Self::UpstreamSilent | Self::UpstreamPerTryIdle | Self::StreamIdleTimeout => "SI",
            Self::DownstreamDisconnect => "DC",
            Self::RequestHeaderTimeout | Self::RequestTimeout | Self::MaxDurationTimeout => "DT",
            Self::Http1Codec
            | Self::Http1Framing
            | Self::Http1Url
            | Self::Http1HeadersTooLarge
            | Self::TooManyHeaders
            | Self::UnexpectedUnderscore
            | Self::MissingHost
            | Self::ConnectionNomination
            | Self::HttpVersion
            | Self::Connect
            | Self::Expectation
            | Self::Http2Messaging
            | Self::PathNormalization => "DPE",
            Self::Overload => "OM",
            Self::FaultAbort => "FI",
            Self::LocalRateLimited | Self::RateLimited => "RL",
            Self::RateLimitFailed => "RLSE",
            Self::ExtAuthzDenied | Self::ExtAuthzError | Self::ExtAuthzInvalid => "UAEX",
            Self::HealthCheckFailed => "LH",
            Self::FilterConfigNotFound => "NFCF",
        }
    }

    /// Envoy's response code details; words of our own only where Envoy has no case of the kind.
    pub(crate) fn details(self) -> &'static str {
        match self {
            Self::ViaUpstream => "via_upstream",
            Self::DirectResponse => "direct_response",
            Self::RouteNotFound => "route_not_found",
            Self::ClusterNotFound => "cluster_not_found",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::UpstreamOverflow => "upstream_reset_before_response_started{overflow}",
            Self::ConnectFailure => "upstream_reset_before_response_started{remote_connection_failure}",
            Self::ConnectTimeout => "upstream_reset_before_response_started{connection_timeout}",
            Self::UpstreamTermination => "upstream_reset_before_response_started{connection_termination}",
            Self::UpstreamReset => "upstream_reset_before_response_started{remote_reset}",
            Self::UpstreamProtocol => "upstream_reset_before_response_started{protocol_error}",
            Self::UpstreamTimeout => "upstream_response_timeout",
            Self::UpstreamPerTryTimeout => "upstream_per_try_timeout",
            Self::UpstreamPerTryIdle => "upstream_per_try_idle_timeout",
            Self::UpstreamCut => "upstream_reset_after_response_started{connection_termination}",
            Self::UpstreamGarbled => "upstream_reset_after_response_started{protocol_error}",
            Self::UpstreamSilent => "upstream_idle_timeout",
            Self::DownstreamDisconnect => "downstream_remote_disconnect",
            Self::StreamIdleTimeout => "stream_idle_timeout",
            Self::RequestHeaderTimeout => "request_header_timeout",
            Self::RequestTimeout => "request_overall_timeout",
            Self::MaxDurationTimeout => "max_duration_timeout",
            Self::Http1Codec => "http1.codec_error",
            Self::Http1Framing => "http1.invalid_framing",
            Self::Http1Url => "http1.invalid_url",
            Self::Http1HeadersTooLarge => "http1.headers_too_large",
            Self::TooManyHeaders => "http1.too_many_headers",
            Self::UnexpectedUnderscore => "http1.unexpected_underscore",
            Self::MissingHost => "missing_host_header",
            Self::ConnectionNomination => "http1.connection_header_rejected",
            Self::HttpVersion => "http1.unsupported_version",
            Self::Connect => "http1.connect_rejected",
            Self::Expectation => "http1.expectation_failed",
            Self::Http2Messaging => "http2.violation.of.messaging.rule",
            Self::PathNormalization => "path_normalization_failed",
            Self::UpgradeFailed => "upgrade_failed",
            Self::Overload => "overload",
            Self::FaultAbort => "fault_filter_abort",
            Self::LocalRateLimited => "local_rate_limited",
            Self::RbacDenied => "rbac_access_denied_matched_policy[none]",
            Self::CorsPreflight => "cors_response",
            Self::HealthCheckOk => "health_check_ok",
            Self::HealthCheckFailed => "health_check_failed",
            Self::CdnLoop => "cdn_loop_detected",
            Self::CdnLoopInvalid => "invalid_cdn_loop_header",
            Self::JwtDenied => "jwt_authn_access_denied",
            Self::ExtAuthzDenied => "ext_authz_denied",
            Self::ExtAuthzError => "ext_authz_error",
            Self::ExtAuthzInvalid => "ext_authz_invalid",
            Self::RateLimited => "request_rate_limited",
            Self::RateLimitFailed => "rate_limiter_error",
            Self::RequestPayloadTooLarge => "request_payload_too_large",
            Self::GrpcWebBase64 => "grpc_base_64_decode_failed",
            Self::AdmissionControl => "denied_by_admission_control",
            Self::ConcurrencyLimit => "reached_concurrency_limit",
            Self::FilterConfigNotFound => "filter_config_not_found",
        }
    }

    /// Whether this proxy, and not whoever was asked, decided what the client got.
    pub(crate) fn is_error(self) -> bool {
        !matches!(self, Self::ViaUpstream | Self::DirectResponse | Self::CorsPreflight | Self::HealthCheckOk)
    }
}

// === whose doing a broken transfer is ===

impl SourceError {
    /// The reason, if the upstream was the source.
    pub(super) fn of_upstream(&self) -> Reason {
        match self {
            Self::Closed => Reason::UpstreamCut,
            Self::Timeout => Reason::UpstreamSilent,
            Self::Malformed => Reason::UpstreamGarbled,
        }
    }
}

impl WriteError {
    /// The reason, if the client was the sink.
    pub(super) fn of_downstream(&self) -> Reason {
        match self {
            Self::Io(error) if error.is_timeout() => Reason::StreamIdleTimeout,
            Self::Io(_) => Reason::DownstreamDisconnect,
            // The upstream sent more or less than it had declared.
            Self::Length => Reason::UpstreamGarbled,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_its_place_and_its_own_words() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number, "{reason:?}");
        }
        let words: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.details()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
