//! How long a change of the mesh takes until it is in effect here.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// Upper bounds in seconds.
pub(crate) const BOUNDS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// From the cause of a change to its effect. A change comes a few times a second at most, on one thread.
#[derive(Debug, Default)]
pub(crate) struct Propagation(Mutex<Counts>);

/// What was counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Cumulative, one for each of [`BOUNDS`].
    pub(crate) cumulative: [u64; BOUNDS.len()],
    pub(crate) count: u64,
    pub(crate) sum: Duration,
}

// === impl Propagation ===

impl Propagation {
    /// A change that was caused at `caused_at` is in effect `now`. Where the two clocks differ such that it were in
    /// effect before, it took no time.
    pub(crate) fn record(&self, caused_at: SystemTime, now: SystemTime) {
        let took = now.duration_since(caused_at).unwrap_or_default();
        let mut counts = self.0.lock();
        for (bound, count) in BOUNDS.iter().zip(&mut counts.cumulative) {
            *count += u64::from(took.as_secs_f64() <= *bound);
        }
        counts.count += 1;
        counts.sum += took;
    }

    pub(crate) fn read(&self) -> Counts {
        *self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_how_long_is_counted_and_the_future_took_no_time() {
        let propagation = Propagation::default();
        let now = SystemTime::now();
        for ago in [Duration::from_millis(3), Duration::from_secs(20), Duration::from_secs(100)] {
            propagation.record(now - ago, now);
        }
        propagation.record(now + Duration::from_secs(5), now);
        let Counts { cumulative, count, sum } = propagation.read();
        assert_eq!((cumulative[0], cumulative[2], cumulative[13], cumulative[14]), (1, 2, 3, 3));
        assert_eq!((count, sum), (4, Duration::from_millis(120_003)));
    }
}
