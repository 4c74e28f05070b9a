//! The gradient controller: how many requests at once are good for an upstream.
//!
//! Source: Envoy's `gradient_controller.cc` and its documentation. Now and then the concurrency is made so low that latency
//! is what it is without a queue: the minimum. From then on each sample of latencies is compared with it, and the limit
//! follows the ratio of the two.
//!
//! # Guarantees
//! * No more requests are on their way than the limit, whichever threads they are on.
//! * No thread waits: who finds that a window is over computes what follows from it; others go on with what was.
//!
//! Times are microseconds since the controller's start and come from the caller, as does randomness.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::samples::Samples;

#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Which latency of a window stands for it, as a share.
    pub(super) percentile: f64,
    pub(super) max_limit: u32,
    /// Between two changes of the limit.
    pub(super) update_interval: u64,
    /// Between two measurements of the minimum.
    pub(super) min_rtt_interval: u64,
    /// Of that interval, at most so much is added.
    pub(super) jitter: f64,
    /// How many requests make a measurement.
    pub(super) min_rtt_requests: u32,
    /// The limit while it is measured, and at any time the least.
    pub(super) min_concurrency: u32,
    /// Of the minimum, so much more is no sign of a queue.
    pub(super) buffer: f64,
}

#[derive(Debug)]
pub(super) struct Controller {
    settings: Settings,
    outstanding: AtomicU32,
    limit: AtomicU32,
    samples: Samples,
    phase: AtomicU8,
    /// What follows is written only by the thread that made the phase [`BUSY`].
    ///
    /// The limit to go back to after a measurement.
    deferred: AtomicU32,
    /// When the measurement began: requests from before say nothing about it.
    epoch: AtomicU64,
    min_rtt: AtomicU64,
    /// How often in a row the limit was the least already.
    at_least: AtomicU32,
    next_update: AtomicU64,
    next_min_rtt: AtomicU64,
}

/// Latencies are compared with the minimum.
const SAMPLING: u8 = 0;
/// The minimum is measured.
const MEASURING: u8 = 1;
/// A thread goes from one to the other.
const BUSY: u8 = 2;

/// As Envoy: the minimum must be wrong then.
const TOO_OFTEN_AT_LEAST: u32 = 5;

/// What a window led to, for statistics. All in their own units; `None` is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Change {
    pub(super) limit: u32,
    pub(super) measuring: bool,
    pub(super) min_rtt_micros: Option<u64>,
    pub(super) sample_rtt_micros: Option<u64>,
    pub(super) gradient: Option<f64>,
    pub(super) burst: Option<f64>,
}

// === impl Controller ===

impl Controller {
    /// Begins with a measurement.
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            outstanding: AtomicU32::new(0),
            limit: AtomicU32::new(settings.min_concurrency),
            samples: Samples::default(),
            phase: AtomicU8::new(MEASURING),
            deferred: AtomicU32::new(settings.min_concurrency),
            epoch: AtomicU64::new(0),
            min_rtt: AtomicU64::new(0),
            at_least: AtomicU32::new(0),
            next_update: AtomicU64::new(settings.update_interval),
            next_min_rtt: AtomicU64::new(u64::MAX),
        }
    }

    /// Takes a place for a request, if there is one.
    pub(super) fn enter(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let step = |outstanding: u32| (outstanding < limit).then_some(outstanding + 1);
        self.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).is_ok()
    }

    /// Gives the place of a request back that was not answered.
    pub(super) fn cancel(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives the place of a request back that was answered.
    pub(super) fn leave(&self, started: u64, now: u64, random: impl Fn() -> u64) -> Option<Change> {
        self.cancel();
        if started < self.epoch.load(Ordering::Relaxed) {
            return None;
        }
        let count = self.samples.add(now.saturating_sub(started));
        if count < self.settings.min_rtt_requests || !self.claim(MEASURING) {
            return None;
        }
        let change = self.end_measurement(now, random());
        self.phase.store(SAMPLING, Ordering::Release);
        Some(change)
    }

    /// Does what the time has come for.
    pub(super) fn tick(&self, now: u64) -> Option<Change> {
        let measure = now >= self.next_min_rtt.load(Ordering::Relaxed);
        let update = now >= self.next_update.load(Ordering::Relaxed);
        if !(measure || update) || !self.claim(SAMPLING) {
            return None;
        }
        if measure {
            let change = self.begin_measurement(now);
            self.phase.store(MEASURING, Ordering::Release);
            return Some(change);
        }
        self.next_update.store(now.saturating_add(self.settings.update_interval), Ordering::Relaxed);
        let change = self.update(now);
        self.phase.store(SAMPLING, Ordering::Release);
        change
    }

    /// Whether this thread may go on from this phase.
    fn claim(&self, phase: u8) -> bool {
        self.phase.compare_exchange(phase, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn begin_measurement(&self, now: u64) -> Change {
        self.deferred.store(self.limit.load(Ordering::Relaxed), Ordering::Relaxed);
        self.limit.store(self.settings.min_concurrency, Ordering::Relaxed);
        self.at_least.store(0, Ordering::Relaxed);
        // What was is not without a queue.
        self.samples.take(self.settings.percentile);
        self.epoch.store(now, Ordering::Relaxed);
        Change { limit: self.settings.min_concurrency, measuring: true, ..Change::default() }
    }

    fn end_measurement(&self, now: u64, random: u64) -> Change {
        let min_rtt = self.samples.take(self.settings.percentile);
        if let Some(min_rtt) = min_rtt {
            self.min_rtt.store(min_rtt, Ordering::Relaxed);
        }
        let limit = self.deferred.load(Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.at_least.store(0, Ordering::Relaxed);
        let interval = self.settings.min_rtt_interval;
        let range = ((interval as f64 * self.settings.jitter).ceil() as u64).max(1);
        self.next_min_rtt
            .store(now.saturating_add(interval).saturating_add(random % range), Ordering::Relaxed);
        self.next_update.store(now.saturating_add(self.settings.update_interval), Ordering::Relaxed);
        Change { limit, min_rtt_micros: min_rtt, ..Change::default() }
    }

    fn update(&self, now: u64) -> Option<Change> {
        let sample = self.samples.take(self.settings.percentile)?.max(1);
        let before = self.limit.load(Ordering::Relaxed);
        let min_rtt = self.min_rtt.load(Ordering::Relaxed) as f64;
        let gradient = (min_rtt * (1.0 + self.settings.buffer) / sample as f64).clamp(0.5, 2.0);
        let limit = f64::from(before) * gradient;
        let burst = limit.sqrt();
        let (least, most) = (self.settings.min_concurrency, self.settings.max_limit);
        let limit = ((limit + burst) as u32).min(most).max(least);
        self.limit.store(limit, Ordering::Relaxed);
        let at_least = if before == least && limit == least {
            self.at_least.load(Ordering::Relaxed).saturating_add(1)
        } else {
            0
        };
        self.at_least.store(at_least, Ordering::Relaxed);
        if at_least >= TOO_OFTEN_AT_LEAST {
            self.next_min_rtt.store(now, Ordering::Relaxed);
        }
        Some(Change {
            limit,
            measuring: false,
            min_rtt_micros: None,
            sample_rtt_micros: Some(sample),
            gradient: Some(gradient),
            burst: Some(burst),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: u64 = 1000;

    fn settings() -> Settings {
        Settings {
            percentile: 0.5,
            max_limit: 100,
            update_interval: 100 * MILLIS,
            min_rtt_interval: 10_000 * MILLIS,
            jitter: 0.1,
            min_rtt_requests: 5,
            min_concurrency: 3,
            buffer: 0.25,
        }
    }

    /// A request that takes so long and ends at `now`.
    fn request(controller: &Controller, now: u64, latency: u64) -> Option<Change> {
        assert!(controller.enter());
        controller.leave(now - latency, now, || 500)
    }

    /// A controller that has measured 10 ms, at 100 ms.
    fn measured() -> Controller {
        let controller = Controller::new(settings());
        for _ in 0..4 {
            assert_eq!(request(&controller, 100 * MILLIS, 10 * MILLIS), None);
        }
        let change = request(&controller, 100 * MILLIS, 10 * MILLIS).expect("a measurement");
        assert_eq!((change.limit, change.measuring), (3, false));
        let min_rtt = change.min_rtt_micros.expect("a minimum");
        assert!(min_rtt.abs_diff(10 * MILLIS) < 200, "{min_rtt}");
        controller
    }

    #[test]
    fn no_more_than_the_limit_are_on_their_way() {
        let controller = Controller::new(settings());
        assert_eq!([(); 4].map(|()| controller.enter()), [true, true, true, false]);
        controller.cancel();
        assert!(controller.enter());
        assert!(!controller.enter());
    }

    #[test]
    fn the_limit_grows_while_latency_is_near_the_minimum_and_shrinks_when_it_is_not() {
        let controller = measured();
        let mut now = 100 * MILLIS;
        let mut limits = Vec::new();
        for latency in [10, 10, 10, 30, 30, 100] {
            for _ in 0..10 {
                request(&controller, now + 50 * MILLIS, latency * MILLIS);
            }
            assert_eq!(controller.tick(now + 99 * MILLIS), None, "too early");
            now += 100 * MILLIS;
            limits.push(controller.tick(now).expect("a change").limit);
        }
        // 3 · 1.25 + √3.75 = 5.7 and so on; then half, and the root of that.
        assert_eq!(limits[0], 5);
        assert!(limits[1] > limits[0] && limits[2] > limits[1], "{limits:?}");
        assert!(limits[3] < limits[2] && limits[5] < limits[4] || limits[5] == 3, "{limits:?}");
        assert_eq!(controller.tick(now + 100 * MILLIS), None, "nothing came, nothing changes");
    }

    #[test]
    fn the_gradient_is_bounded_and_so_is_the_limit() {
        let controller = measured();
        let mut now = 100 * MILLIS;
        for _ in 0..30 {
            request(&controller, now, MILLIS);
            now += 100 * MILLIS;
            let change = controller.tick(now).expect("a change");
            assert_eq!(change.gradient, Some(2.0));
        }
        assert_eq!(controller.limit.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn the_minimum_is_measured_anew_in_time_and_the_limit_comes_back() {
        let controller = measured();
        request(&controller, 150 * MILLIS, 5 * MILLIS);
        let limit = controller.tick(200 * MILLIS).expect("a change").limit;
        assert!(limit > 3);
        // The interval and 500 µs of jitter, since the measurement at 100 ms.
        assert_eq!(controller.tick(10_100 * MILLIS), None);
        let change = controller.tick(10_100 * MILLIS + 500).expect("a measurement begins");
        assert_eq!((change.limit, change.measuring), (3, true));
        let now = 10_101 * MILLIS;
        assert_eq!(request(&controller, now, 500 * MILLIS), None, "from before");
        for _ in 0..4 {
            request(&controller, now + 20 * MILLIS, 20 * MILLIS);
        }
        assert_eq!(controller.tick(now + 1000 * MILLIS), None, "it is not over");
        let change = request(&controller, now + 20 * MILLIS, 20 * MILLIS).expect("it is");
        assert_eq!(change.limit, limit);
        assert!(change.min_rtt_micros.expect("a minimum").abs_diff(20 * MILLIS) < 400);
    }

    #[test]
    fn a_limit_that_stays_at_the_least_is_a_sign_of_a_wrong_minimum() {
        let controller = measured();
        let mut now = 100 * MILLIS;
        for round in 0..5 {
            request(&controller, now, 100 * MILLIS);
            now += 100 * MILLIS;
            let change = controller.tick(now).expect("a change");
            assert_eq!((change.limit, change.measuring), (3, false), "{round}");
        }
        let change = controller.tick(now).expect("a measurement begins");
        assert!(change.measuring);
    }

    #[test]
    fn threads_never_exceed_the_limit_together() {
        let controller = Controller::new(Settings { min_concurrency: 7, ..settings() });
        let (running, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        if controller.enter() {
                            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                            most.fetch_max(now, Ordering::SeqCst);
                            running.fetch_sub(1, Ordering::SeqCst);
                            controller.cancel();
                        }
                    }
                });
            }
        });
        assert!((1..=7).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(controller.outstanding.load(Ordering::SeqCst), 0);
    }
}
