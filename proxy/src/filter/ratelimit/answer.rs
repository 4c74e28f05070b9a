//! Asking `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`, and what its answer means.

use std::fmt::Write as _;

use weft_xds::pb::envoy::{
    config::core::v3::HeaderValue,
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus, rate_limit::Unit},
    },
};

use crate::{
    callout::grpc::GrpcService,
    http::exchange::Context,
    route::{
        mutate::{Addition, Append},
        rate_limit::Pairs,
    },
};

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// What the service says, with fields for the upstream and the client.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Within {
        upstream: Vec<Addition>,
        client: Vec<Addition>,
    },
    Over {
        upstream: Vec<Addition>,
        client: Vec<Addition>,
        body: Vec<u8>,
    },
    /// Nothing that can be understood.
    Unknown,
}

pub(super) async fn ask(
    service: &GrpcService,
    cx: &Context,
    domain: &str,
    descriptions: Vec<Pairs>,
    tell_limits: bool,
) -> Verdict {
    let descriptors = descriptions.into_iter().map(|pairs| RateLimitDescriptor {
        entries: pairs.into_iter().map(|(key, value)| Entry { key, value }).collect(),
        ..RateLimitDescriptor::default()
    });
    let request = RateLimitRequest {
        domain: domain.to_owned(),
        descriptors: descriptors.collect(),
        ..RateLimitRequest::default()
    };
    match service.call::<_, RateLimitResponse>(cx, METHOD, &request).await {
        Ok(response) => verdict(response, tell_limits),
        Err(error) => {
            tracing::debug!(%error, "cannot ask for the rate limit");
            Verdict::Unknown
        }
    }
}

fn verdict(response: RateLimitResponse, tell_limits: bool) -> Verdict {
    let code = response.overall_code();
    let upstream = response.request_headers_to_add.into_iter().filter_map(addition).collect();
    let mut client: Vec<Addition> =
        response.response_headers_to_add.into_iter().filter_map(addition).collect();
    if tell_limits {
        client.extend(limits(&response.statuses));
    }
    match code {
        Code::Ok => Verdict::Within { upstream, client },
        Code::OverLimit => Verdict::Over { upstream, client, body: response.raw_body },
        Code::Unknown => Verdict::Unknown,
    }
}

/// A field as the service wants it, if it is one and not about this hop: who answers is trusted to count, not to write to
/// the wire.
fn addition(header: HeaderValue) -> Option<Addition> {
    const HOP: [&str; 8] = [
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "content-length",
        "te",
        "upgrade",
    ];
    let name = ::http::HeaderName::from_bytes(header.key.as_bytes()).ok()?;
    let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
    let good = !HOP.contains(&name.as_str()) && ::http::HeaderValue::from_bytes(&value).is_ok();
    good.then(|| Addition::literal(name.as_str().as_bytes().to_vec(), value, Append::Always))
}

/// `x-ratelimit-limit` with the limits of all descriptions, `-remaining` and `-reset` of the one that is nearest to its end.
fn limits(statuses: &[DescriptorStatus]) -> Vec<Addition> {
    let known = || statuses.iter().filter_map(|status| Some((status, status.current_limit.as_ref()?)));
    let Some((nearest, limit)) = known().min_by_key(|(status, _)| status.limit_remaining) else {
        return Vec::new();
    };
    let mut text = limit.requests_per_unit.to_string();
    for (_, limit) in known() {
        let window = seconds(limit.unit());
        if window > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {};w={window}", limit.requests_per_unit);
            if !limit.name.is_empty() {
                let name: String =
                    limit.name.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')).collect();
                let _ = write!(text, ";name=\"{name}\"");
            }
        }
    }
    let reset = nearest.duration_until_reset.as_ref().map_or(0, |duration| duration.seconds);
    let field = |name: &str, value: String| {
        Addition::literal(name.as_bytes().to_vec(), value.into_bytes(), Append::Always)
    };
    vec![
        field("x-ratelimit-limit", text),
        field("x-ratelimit-remaining", nearest.limit_remaining.to_string()),
        field("x-ratelimit-reset", reset.to_string()),
    ]
}

fn seconds(unit: Unit) -> u32 {
    const DAY: u32 = 24 * 60 * 60;
    match unit {
        Unit::Unknown => 0,
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 60 * 60,
        Unit::Day => DAY,
        Unit::Week => 7 * DAY,
        Unit::Month => 30 * DAY,
        Unit::Year => 365 * DAY,
    }
}

#[cfg(test)]
mod tests {
    use weft_xds::pb::{
        envoy::service::ratelimit::v3::rate_limit_response::RateLimit, google::protobuf::Duration,
    };

    use super::*;

    fn status(limit: u32, unit: Unit, name: &str, remaining: u32, reset: i64) -> DescriptorStatus {
        DescriptorStatus {
            current_limit: Some(RateLimit {
                name: name.to_owned(),
                requests_per_unit: limit,
                unit: unit.into(),
            }),
            limit_remaining: remaining,
            duration_until_reset: Some(Duration { seconds: reset, nanos: 0 }),
            ..DescriptorStatus::default()
        }
    }

    #[test]
    fn clients_are_told_all_limits_and_what_is_left_of_the_nearest() {
        let statuses = [
            status(10, Unit::Second, "per-sec\"\r\n", 3, 1),
            status(100, Unit::Minute, "", 1, 40),
            DescriptorStatus::default(),
        ];
        let fields: Vec<_> = limits(&statuses)
            .into_iter()
            .map(|field| (field.name.clone(), field.value.known().to_vec()))
            .collect();
        let wanted = [
            ("x-ratelimit-limit", "100, 10;w=1;name=\"per-sec\", 100;w=60"),
            ("x-ratelimit-remaining", "1"),
            ("x-ratelimit-reset", "40"),
        ];
        assert_eq!(fields, wanted.map(|(name, value)| (name.into(), value.as_bytes().to_vec())));
        assert_eq!(limits(&[DescriptorStatus::default()]), []);
    }

    #[test]
    fn only_fields_that_can_be_said_are_taken_over() {
        let header = |key: &str, value: &str| HeaderValue {
            key: key.into(),
            value: value.into(),
            ..HeaderValue::default()
        };
        let response = RateLimitResponse {
            overall_code: Code::Ok.into(),
            request_headers_to_add: vec![
                header("X-A", "1"),
                header("x-b", "1\r\nx-c: 2"),
                header("Content-Length", "7"),
                header(":path", "/"),
            ],
            ..RateLimitResponse::default()
        };
        let Verdict::Within { upstream, client } = verdict(response, false) else { panic!("it is within") };
        let names: Vec<_> = upstream.iter().map(|field| field.name.as_slice()).collect();
        assert_eq!((names, client.len()), (vec![&b"x-a"[..]], 0));
        assert_eq!(verdict(RateLimitResponse::default(), true), Verdict::Unknown);
    }
}
