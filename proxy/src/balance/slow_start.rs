//! Slow start: an endpoint that just came gets its part little by little, while its caches are cold.

use std::time::Duration;

/// The settings; Envoy's names and defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SlowStart {
    /// How long it takes until an endpoint gets its whole part.
    pub(crate) window: Duration,
    /// 1 is a straight line; the more, the faster at first.
    pub(crate) aggression: f64,
    /// What it gets at least, of its part.
    pub(crate) least: f64,
}

/// Steps in which the part grows: each makes a rotation anew, so no more than are felt.
const STEPS: u32 = 20;
/// The shortest step.
const MIN_STEP: Duration = Duration::from_millis(100);

// === impl SlowStart ===

impl SlowStart {
    /// Which part of its weight an endpoint of this age has.
    pub(super) fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.as_secs_f64() / self.window.as_secs_f64();
        time.powf(1.0 / self.aggression).max(self.least)
    }

    /// When the factor of an endpoint of this age should be looked at again.
    pub(super) fn next_step(&self, age: Duration) -> Option<Duration> {
        (age < self.window).then(|| (self.window / STEPS).max(MIN_STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_grows_from_the_least_to_all() {
        let settings = |aggression| SlowStart { window: Duration::from_secs(60), aggression, least: 0.1 };
        let after = |aggression, seconds| settings(aggression).factor(Duration::from_secs(seconds));
        assert_eq!([after(1.0, 0), after(1.0, 30), after(1.0, 60)], [0.1, 0.5, 1.0]);
        assert!(after(2.0, 15) == 0.5 && after(0.5, 30) == 0.25);
        assert_eq!(settings(1.0).next_step(Duration::from_secs(60)), None);
    }
}
