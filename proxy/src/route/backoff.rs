//! How long to wait before a request is tried again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{balance::Random, http::head::Head};

/// Nothing up to a bound that doubles with each retry, at random ("full jitter"): retries of many clients spread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackOff {
    pub(crate) base: Duration,
    pub(crate) max: Duration,
}

/// Waiting as long as the upstream asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RateLimited {
    /// The first of these that is there and not too long counts.
    pub(crate) fields: Vec<ResetField>,
    /// Waits beyond this are not waited for.
    pub(crate) max: Duration,
}

/// A field that says when to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResetField {
    /// Lower case.
    pub(crate) name: Vec<u8>,
    pub(crate) format: ResetFormat,
}

/// What the number in a [`ResetField`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResetFormat {
    Seconds,
    UnixTimestamp,
}

// === impl BackOff ===

impl BackOff {
    /// The wait before the retry after `before` others.
    pub(crate) fn wait(&self, before: u32, random: &Random) -> Duration {
        let ceiling = self.base.saturating_mul(1 << before.min(16)).min(self.max);
        let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(random.next() % micros)
    }
}

// === impl RateLimited ===

impl RateLimited {
    /// The wait that `response` asks for, and up to half as much again, so that not all come back at once.
    pub(crate) fn wait(&self, response: &Head, now: SystemTime, random: &Random) -> Option<Duration> {
        let asked = self.fields.iter().find_map(|field| {
            let text = std::str::from_utf8(response.get(&field.name)?).ok()?;
            let number = Duration::from_secs(text.trim().parse().ok()?);
            let wait = match field.format {
                ResetFormat::Seconds => number,
                ResetFormat::UnixTimestamp => {
                    number.saturating_sub(now.duration_since(UNIX_EPOCH).unwrap_or_default())
                }
            };
            Some(wait).filter(|wait| *wait <= self.max)
        })?;
        let half = u64::try_from(asked.as_millis() / 2).unwrap_or(u64::MAX);
        Some(asked + Duration::from_millis(random.next() % half.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_its_bound_and_is_anything_below_it() {
        let (random, back_off) =
            (Random::new(7), BackOff { base: Duration::from_millis(25), max: Duration::from_millis(100) });
        for (before, bound) in [(0, 25), (1, 50), (2, 100), (9, 100)] {
            let waits: Vec<_> = (0..500).map(|_| back_off.wait(before, &random)).collect();
            let bound = Duration::from_millis(bound);
            assert!(waits.iter().all(|wait| *wait < bound));
            let mean = waits.iter().sum::<Duration>() / 500;
            assert!(mean > bound * 4 / 10 && mean < bound * 6 / 10, "{mean:?} of {bound:?}");
        }
    }

    #[test]
    fn an_upstream_says_when_to_come_back_within_limits() {
        let limited = RateLimited {
            fields: vec![
                ResetField { name: b"retry-after".to_vec(), format: ResetFormat::Seconds },
                ResetField { name: b"x-ratelimit-reset".to_vec(), format: ResetFormat::UnixTimestamp },
            ],
            max: Duration::from_secs(60),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let wait = |fields: &[(&[u8], &[u8])]| {
            let mut head = Head::default();
            for (name, value) in fields {
                head.append(name, value);
            }
            limited.wait(&head, now, &Random::new(7)).map(|wait| wait.as_secs())
        };
        assert!((2..3).contains(&wait(&[(b"retry-after", b"2")]).expect("a wait")));
        assert!((10..15).contains(&wait(&[(b"x-ratelimit-reset", b"1000010")]).expect("a wait")));
        assert_eq!(wait(&[(b"retry-after", b"61")]), None);
        assert_eq!(wait(&[(b"retry-after", b"tomorrow")]), None);
        assert!(wait(&[(b"retry-after", b"61"), (b"x-ratelimit-reset", b"1000010")]).is_some());
    }
}
