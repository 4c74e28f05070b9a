//! Exponential backoff with jitter.

use std::time::Duration;

use rand::Rng as _;

/// Delays that double from `base` to `max`, each multiplied by a random factor between 0.5 and 1.
///
/// The jitter keeps clients that lost the same server at the same moment from returning at the same moment
/// (the "equal jitter" of the AWS architecture blog, "Exponential Backoff And Jitter", 2015).
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts at `base` and never exceeds `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, attempt: 0 }
    }

    /// The delay before the next attempt; each call counts as one failed attempt.
    pub fn next_delay(&mut self) -> Duration {
        let full = self.ceiling();
        self.attempt = self.attempt.saturating_add(1);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// To be called after a success: the next delay is again about `base`.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    fn ceiling(&self) -> Duration {
        // 2^20 times any base is past every sensible `max`; the cap keeps the multiplication from overflowing.
        self.base.saturating_mul(1 << self.attempt.min(20)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_starts_over_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let full = Duration::from_millis(expected);
            let delay = backoff.next_delay();
            assert!(delay >= full / 2 && delay <= full, "{delay:?} is not within [{:?}, {full:?}]", full / 2);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
