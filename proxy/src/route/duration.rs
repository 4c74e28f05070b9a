//! How long a stream may take, and what gRPC clients say about that.

use std::time::Duration;

/// A route's limit on whole streams, from the first byte of the request to the last of the response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamLimit {
    /// `None` is what the connection manager says.
    pub(crate) max: Option<Bound>,
    /// For gRPC requests with a `grpc-timeout` that is what counts, if this is set.
    pub(crate) grpc: Option<GrpcLimit>,
}

/// A limit or the explicit lack of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound(pub(crate) Option<Duration>);

/// What is made of a `grpc-timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GrpcLimit {
    /// The most that a client may ask for.
    pub(crate) max: Option<Duration>,
    /// Taken off, so that we are the first to give up.
    pub(crate) offset: Duration,
}

/// Largest number that fits the eight digits of a `grpc-timeout`.
const MOST: u128 = 99_999_999;

// === impl StreamLimit ===

impl StreamLimit {
    /// The limit for a request with this `grpc-timeout` under a manager with this limit.
    pub(crate) fn of(&self, grpc_timeout: Option<Duration>, manager: Option<Duration>) -> Option<Duration> {
        match (self.grpc, grpc_timeout) {
            (Some(limit), Some(asked)) => {
                let asked = limit.max.into_iter().chain([asked]).min().unwrap_or(asked);
                Some(asked.saturating_sub(limit.offset))
            }
            _ => self.max.map_or(manager, |Bound(max)| max),
        }
    }
}

/// Reads a `grpc-timeout` (gRPC over HTTP2, "Timeout"); `None` if it is none.
pub(crate) fn parse_grpc(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes a `grpc-timeout`, never longer than `timeout`.
pub(crate) fn write_grpc(timeout: Duration) -> String {
    match timeout.as_millis() {
        0 => format!("{}u", timeout.as_micros()),
        millis @ 1..=MOST => format!("{millis}m"),
        _ => format!("{}S", timeout.as_secs().min(MOST as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_grpc_are_read_in_all_units_and_written_in_a_fine_one() {
        for (text, wanted) in
            [("1H", "3600000m"), ("2M", "120000m"), ("3S", "3000m"), ("4m", "4m"), ("5u", "5u")]
        {
            assert_eq!(parse_grpc(text.as_bytes()).map(write_grpc).as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(parse_grpc(b"7n"), Some(Duration::from_nanos(7)));
        assert_eq!(write_grpc(Duration::from_secs(1_000_000)), "1000000S");
        for bad in ["", "S", "5", "5s", "123456789m", "-1S", "+1S", "1.5S"] {
            assert_eq!(parse_grpc(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn what_a_grpc_client_asks_for_counts_only_where_that_is_wanted() {
        let seconds = |count| Some(Duration::from_secs(count));
        let silent = StreamLimit::default();
        assert_eq!(silent.of(seconds(5), seconds(9)), seconds(9));
        let own = StreamLimit { max: Some(Bound(None)), grpc: None };
        assert_eq!(own.of(seconds(5), seconds(9)), None);
        let limit = GrpcLimit { max: seconds(4), offset: Duration::from_secs(1) };
        let grpc = StreamLimit { max: Some(Bound(seconds(7))), grpc: Some(limit) };
        assert_eq!(grpc.of(seconds(5), None), seconds(3));
        assert_eq!(grpc.of(seconds(2), None), seconds(1));
        assert_eq!(grpc.of(None, None), seconds(7));
    }
}
