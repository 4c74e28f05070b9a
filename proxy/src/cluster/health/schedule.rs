//! When an endpoint is asked next.

use std::time::Duration;

/// The pauses between two checks of an endpoint, by how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) interval: Duration,
    /// Instead of `interval` while it is unfit.
    pub(crate) unhealthy: Duration,
    /// After the check that made it unfit.
    pub(crate) unhealthy_edge: Duration,
    /// After the check that made it fit again.
    pub(crate) healthy_edge: Duration,
    /// Up to this before the first check, at random.
    pub(crate) initial_jitter: Duration,
    /// Up to this is added to each pause, at random.
    pub(crate) jitter: Duration,
    /// The same as a share of the pause.
    pub(crate) jitter_percent: u32,
}

// === impl Schedule ===

impl Schedule {
    /// The pause after a check that found the endpoint `failing`, where the one before found it `before`. `chance` is
    /// from 0 to 1.
    pub(super) fn pause(&self, failing: bool, before: bool, chance: f64) -> Duration {
        let pause = match (failing, before) {
            (false, false) => self.interval,
            (true, true) => self.unhealthy,
            (true, false) => self.unhealthy_edge,
            (false, true) => self.healthy_edge,
        };
        let share = pause.mul_f64(f64::from(self.jitter_percent) / 100.0);
        pause + (self.jitter + share).mul_f64(chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_depends_on_how_the_endpoint_is_and_was() {
        let seconds = Duration::from_secs;
        let schedule = Schedule {
            interval: seconds(10),
            unhealthy: seconds(20),
            unhealthy_edge: seconds(3),
            healthy_edge: seconds(4),
            initial_jitter: Duration::ZERO,
            jitter: seconds(1),
            jitter_percent: 10,
        };
        assert_eq!(schedule.pause(false, false, 0.0), seconds(10));
        assert_eq!(schedule.pause(true, true, 0.0), seconds(20));
        assert_eq!(schedule.pause(true, false, 0.0), seconds(3));
        assert_eq!(schedule.pause(false, true, 0.0), seconds(4));
        assert_eq!(schedule.pause(false, false, 1.0), seconds(12));
    }
}
