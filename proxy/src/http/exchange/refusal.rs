//! Answers that say no: what a balancer must not take for a fast endpoint.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};

use crate::http::head::Head;

/// gRPC's RESOURCE_EXHAUSTED, INTERNAL and UNAVAILABLE, as they come without a body (gRPC's "Trailers-Only").
const GRPC_REFUSALS: [&[u8]; 3] = [b"8", b"13", b"14"];

/// Whether the endpoint did not do what it was asked for, for reasons of its own: 429, server errors (but 501, which any
/// endpoint would say) and their counterparts in gRPC.
pub(super) fn is_refusal(head: &Head) -> bool {
    match head.status {
        429 => true,
        200 => head.get(b"grpc-status").is_some_and(|status| GRPC_REFUSALS.contains(&status)),
        status => status >= 500 && status != 501,
    }
}

/// When the endpoint wants to be asked again: `retry-after` (RFC 9110 10.2.3) as seconds or a date, or gRPC's push-back.
pub(super) fn retry_after(head: &Head) -> Option<Duration> {
    if let Some(millis) = text(head, b"grpc-retry-pushback-ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    let value = text(head, b"retry-after")?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTimeParser::new().parse_timestamp(value).ok()?;
    Duration::try_from(at.duration_since(Timestamp::now())).ok()
}

fn text<'h>(head: &'h Head, name: &[u8]) -> Option<&'h str> {
    std::str::from_utf8(head.get(name)?).ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, name: &str, value: &str) -> Head {
        let mut head = Head::default();
        head.status = status;
        head.append(name.as_bytes(), value.as_bytes());
        head
    }

    #[test]
    fn what_is_refused_is_told_from_what_is_answered() {
        for (status, refusal) in
            [(200, false), (404, false), (429, true), (500, true), (501, false), (503, true)]
        {
            assert_eq!(is_refusal(&head(status, "x", "")), refusal, "{status}");
        }
        assert!(is_refusal(&head(200, "grpc-status", "8")));
        assert!(!is_refusal(&head(200, "grpc-status", "5")));
    }

    #[test]
    fn the_time_to_ask_again_is_read_in_all_its_forms() {
        assert_eq!(retry_after(&head(503, "retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(
            retry_after(&head(200, "grpc-retry-pushback-ms", "250")),
            Some(Duration::from_millis(250))
        );
        assert_eq!(retry_after(&head(503, "retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")), None, "is past");
        let far = retry_after(&head(503, "retry-after", "Tue, 31 Dec 2999 23:59:59 GMT"));
        assert!(far.is_some_and(|wait| wait > Duration::from_secs(1 << 30)), "{far:?}");
        assert_eq!(retry_after(&head(503, "retry-after", "soon")), None);
        assert_eq!(retry_after(&head(503, "x", "")), None);
    }
}
