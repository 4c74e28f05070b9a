//! The verdict over a row of probe results, and when to probe next. No clock: times are counted from the first probe.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::seconds;

/// A probe's numbers, with Kubernetes' defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) initial_delay: Duration,
    pub(super) period: Duration,
    pub(super) timeout: Duration,
    successes: u32,
    failures: u32,
}

/// What a row of results amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Passing,
    Failing,
}

/// Counts results.
///
/// Until its first success an eager tracker asks for more probes than one per period, so that a container which is up
/// after 30 ms is not kept waiting for seconds. Those extra probes can only succeed: failures count once per
/// period, so a threshold lasts exactly as long as its author meant.
#[derive(Debug)]
pub(super) struct Tracker {
    settings: Settings,
    verdict: Option<Verdict>,
    /// Equal results in a row.
    row: u32,
    last: Option<bool>,
    /// The wait before the next extra probe; `None`: only regular ones.
    eager: Option<Duration>,
    /// Number of the period whose failure was counted last.
    counted_period: Option<u128>,
}

const EAGER_FIRST: Duration = Duration::from_millis(20);

// === impl Settings ===

impl Settings {
    pub(super) fn of(probe: &Probe) -> Self {
        let count = |value: Option<i32>, default| {
            value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default).max(1)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

// === impl Tracker ===

impl Tracker {
    pub(super) fn new(settings: Settings, eager: bool) -> Self {
        let eager = eager.then_some(EAGER_FIRST);
        Self { settings, verdict: None, row: 0, last: None, eager, counted_period: None }
    }

    /// Whether a failure now would count.
    pub(super) fn is_regular(&self, at: Duration) -> bool {
        self.counted_period != Some(self.period_of(at))
    }

    /// Takes a result obtained at `at`; a change of the verdict is returned once.
    pub(super) fn record(&mut self, success: bool, at: Duration) -> Option<Verdict> {
        if success {
            self.eager = None;
        } else {
            let period = self.period_of(at);
            if self.counted_period == Some(period) {
                return None;
            }
            self.counted_period = Some(period);
        }
        self.row = if self.last == Some(success) { self.row + 1 } else { 1 };
        self.last = Some(success);
        let (threshold, verdict) = match success {
            true => (self.settings.successes, Verdict::Passing),
            false => (self.settings.failures, Verdict::Failing),
        };
        let changed = self.row >= threshold && self.verdict != Some(verdict);
        changed.then(|| {
            self.verdict = Some(verdict);
            verdict
        })
    }

    /// When to probe next, given the time now.
    pub(super) fn next_at(&mut self, now: Duration) -> Duration {
        let period = u32::try_from(self.period_of(now)).unwrap_or(u32::MAX - 1);
        let regular = self.settings.period.saturating_mul(period + 1);
        match &mut self.eager {
            None => regular,
            Some(wait) => {
                let next = now + *wait;
                // Half as much again each time: quick at first, and a handful of probes per period in the long run.
                *wait = (*wait * 3 / 2).min(self.settings.period);
                next.min(regular)
            }
        }
    }

    fn period_of(&self, at: Duration) -> u128 {
        at.as_micros() / self.settings.period.as_micros().max(1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tracker(probe: serde_json::Value, eager: bool) -> Tracker {
        let probe: Probe = serde_json::from_value(probe).expect("a probe");
        Tracker::new(Settings::of(&probe), eager)
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let settings = Settings::of(&Probe::default());
        assert_eq!((settings.initial_delay, settings.period, settings.timeout), (s(0), s(10), s(1)));
        assert_eq!((settings.successes, settings.failures), (1, 3));
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let mut tracker =
            tracker(json!({"periodSeconds": 1, "failureThreshold": 2, "successThreshold": 2}), false);
        let results = [true, true, false, true, false, false, true, true];
        let changes: Vec<_> = (0..).zip(results).map(|(at, ok)| tracker.record(ok, s(at))).collect();
        use Verdict::{Failing, Passing};
        assert_eq!(changes, [None, Some(Passing), None, None, None, Some(Failing), None, Some(Passing)]);
    }

    #[test]
    fn eager_probes_come_quickly_and_their_failures_do_not_count() {
        let mut tracker = tracker(json!({"periodSeconds": 10, "failureThreshold": 1}), true);
        assert_eq!(tracker.record(false, s(0)), Some(Verdict::Failing));
        let mut now = Duration::ZERO;
        let mut probes = 0;
        while now < s(10) {
            now = tracker.next_at(now);
            assert!(tracker.next_at(now) > now);
            if now < s(10) {
                assert_eq!(tracker.record(false, now), None);
            }
            probes += 1;
        }
        assert!((5..20).contains(&probes), "{probes}");
        assert_eq!(now, s(10), "the regular probe is not missed");
    }

    #[test]
    fn after_the_first_success_the_period_holds() {
        let mut tracker = tracker(json!({"periodSeconds": 5}), true);
        tracker.record(false, s(0));
        let early = tracker.next_at(Duration::ZERO);
        assert!(early < s(1));
        assert_eq!(tracker.record(true, early), Some(Verdict::Passing));
        assert_eq!(tracker.next_at(early), s(5));
        assert_eq!(tracker.next_at(s(5)), s(10));
    }

    #[test]
    fn nonsense_numbers_become_the_least_allowed() {
        let tracker =
            tracker(json!({"periodSeconds": 0, "timeoutSeconds": -1, "failureThreshold": 0}), false);
        assert_eq!(tracker.settings.period, s(1));
        assert_eq!(tracker.settings.timeout, s(1));
        assert_eq!(tracker.settings.failures, 1);
    }
}
