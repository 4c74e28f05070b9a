//! A token bucket in a single atomic.
//!
//! Instead of tokens it holds the time at which it was empty; the tokens are what has run in since. Refilling then needs
//! no timer, and taking is one compare-and-swap, whichever thread does it.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// The longest time that filling may take: the nanoseconds must fit their type, and nobody waits longer.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// So many tokens, refilled steadily.
#[derive(Debug)]
pub(super) struct TokenBucket {
    /// Nanoseconds per token.
    cost: i64,
    /// Nanoseconds to fill it from nothing.
    full: i64,
    start: Instant,
    /// Nanoseconds after `start`.
    empty_at: AtomicI64,
}

impl TokenBucket {
    /// A full bucket that gets `per_fill` tokens in every `interval`; `None` if filling it would take for ever. Neither
    /// of the three may be zero.
    pub(super) fn new(max: u32, per_fill: u32, interval: Duration, start: Instant) -> Option<Self> {
        let cost = (interval.as_nanos() / u128::from(per_fill.max(1))).max(1);
        let full = cost * u128::from(max);
        if full > LONGEST.as_nanos() {
            return None;
        }
        let (cost, full) = (i64::try_from(cost).ok()?, i64::try_from(full).ok()?);
        Some(Self { cost, full, start, empty_at: AtomicI64::new(-full) })
    }

    /// Takes a token, if there is a whole one.
    pub(super) fn take(&self, now: Instant) -> bool {
        let now = i64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(i64::MAX);
        self.empty_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty_at| {
                let level = now.saturating_sub(empty_at).min(self.full);
                (level >= self.cost).then(|| now - level + self.cost)
            })
            .is_ok()
    }

    /// Nanoseconds per token: what orders buckets by how fast they refill.
    pub(super) fn cost(&self) -> i64 {
        self.cost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(bucket: &TokenBucket, now: Instant) -> usize {
        (0..1000).take_while(|_| bucket.take(now)).count()
    }

    #[test]
    fn it_starts_full_refills_steadily_and_never_holds_more_than_its_size() {
        let start = Instant::now();
        let bucket = TokenBucket::new(5, 2, Duration::from_secs(1), start).expect("a bucket");
        assert_eq!(count(&bucket, start), 5);
        assert_eq!(count(&bucket, start + Duration::from_millis(499)), 0);
        assert_eq!(count(&bucket, start + Duration::from_millis(500)), 1);
        assert_eq!(count(&bucket, start + Duration::from_secs(2)), 3);
        assert_eq!(count(&bucket, start + Duration::from_secs(3600)), 5);
    }

    proptest! {
        #[test]
        fn in_any_time_no_more_is_taken_than_was_there_and_ran_in(
            max in 1..20u32,
            per_fill in 1..20u32,
            interval in 1..2_000u64,
            steps in prop::collection::vec((0..500u64, 0..8usize), 1..200),
        ) {
            let start = Instant::now();
            let interval = Duration::from_millis(interval);
            let bucket = TokenBucket::new(max, per_fill, interval, start).expect("a bucket");
            let mut now = start;
            // When each token was taken.
            let mut taken = Vec::new();
            for (pause, wanted) in steps {
                now += Duration::from_millis(pause);
                taken.extend((0..wanted).filter(|_| bucket.take(now)).map(|_| now));
            }
            for (number, from) in taken.iter().enumerate() {
                for (until, count) in taken[number..].iter().zip(1u32..) {
                    // A token costs whole nanoseconds, which may be a little less than its part of the interval.
                    let ran_in = (*until - *from).as_secs_f64() / interval.as_secs_f64() * f64::from(per_fill) * 1.000_1;
                    prop_assert!(f64::from(count) <= f64::from(max) + ran_in, "{count} in {:?}", *until - *from);
                }
            }
        }
    }

    #[test]
    fn threads_share_it_and_together_take_no_more_than_it_has() {
        let start = Instant::now();
        let bucket = TokenBucket::new(100, 1, Duration::from_secs(3600), start).expect("a bucket");
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| count(&bucket, start))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(taken, 100);
    }

    #[test]
    fn one_that_would_never_be_full_is_none() {
        assert!(TokenBucket::new(u32::MAX, 1, Duration::from_secs(1000), Instant::now()).is_none());
    }
}
