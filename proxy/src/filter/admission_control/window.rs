//! How many requests there were in the last so many seconds, and how many of them went well.
//!
//! One ring for all data threads. A slot is two atomics and belongs to a span of time; who first comes to it in a new span
//! empties it. That another thread counts into it at just that moment may cost one count: the window is a statistic.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// As many spans as a window has at most: each decision looks at all of them.
const MOST_SLOTS: u64 = 60;

/// A window of whole seconds. Times are seconds since its start.
#[derive(Debug)]
pub(super) struct Window {
    slots: Box<[Slot]>,
    /// Seconds in a slot.
    span: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// The number of its span, plus one; 0 is never used.
    number: AtomicU64,
    requests: AtomicU32,
    successes: AtomicU32,
}

/// What was in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) successes: u64,
    /// Age of the oldest span that anything was in, in seconds.
    pub(super) age: u64,
}

// === impl Window ===

impl Window {
    pub(super) fn new(seconds: u64) -> Self {
        let span = seconds.div_ceil(MOST_SLOTS).max(1);
        Self { slots: (0..seconds.div_ceil(span).max(1)).map(|_| Slot::default()).collect(), span }
    }

    pub(super) fn record(&self, now: u64, success: bool) {
        let number = now / self.span + 1;
        let index = usize::try_from(number % self.slots.len() as u64).unwrap_or(0);
        let slot = &self.slots[index];
        let before = slot.number.load(Ordering::Acquire);
        if before < number
            && slot.number.compare_exchange(before, number, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            slot.requests.store(0, Ordering::Relaxed);
            slot.successes.store(0, Ordering::Relaxed);
        }
        slot.requests.fetch_add(1, Ordering::Relaxed);
        if success {
            slot.successes.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self, now: u64) -> Counts {
        let newest = now / self.span + 1;
        let oldest = (newest + 1).saturating_sub(self.slots.len() as u64).max(1);
        let mut counts = Counts::default();
        for slot in &self.slots {
            let number = slot.number.load(Ordering::Acquire);
            if (oldest..=newest).contains(&number) {
                counts.requests += u64::from(slot.requests.load(Ordering::Relaxed));
                counts.successes += u64::from(slot.successes.load(Ordering::Relaxed));
                counts.age = counts.age.max(now - (number - 1) * self.span);
            }
        }
        counts
    }
}

// === impl Counts ===

impl Counts {
    /// As Envoy reckons: of the time since the oldest request that is still counted.
    pub(super) fn per_second(self) -> u64 {
        self.requests / self.age.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_the_window_counts_no_more() {
        let window = Window::new(3);
        window.record(0, true);
        window.record(1, false);
        window.record(1, true);
        assert_eq!(window.counts(1), Counts { requests: 3, successes: 2, age: 1 });
        assert_eq!(window.counts(2), Counts { requests: 3, successes: 2, age: 2 });
        assert_eq!(window.counts(3), Counts { requests: 2, successes: 1, age: 2 });
        window.record(3, true);
        assert_eq!(window.counts(3), Counts { requests: 3, successes: 2, age: 2 });
        assert_eq!(window.counts(5), Counts { requests: 1, successes: 1, age: 2 });
        assert_eq!(window.counts(50), Counts::default());
        assert_eq!(Counts { requests: 9, successes: 0, age: 2 }.per_second(), 4);
        assert_eq!(Counts { requests: 9, successes: 0, age: 0 }.per_second(), 9);
    }

    #[test]
    fn a_long_window_has_no_more_slots_than_are_quickly_looked_at() {
        let window = Window::new(3600);
        assert_eq!(window.slots.len(), 60);
        window.record(0, true);
        assert_eq!(window.counts(3599).requests, 1);
        assert_eq!(window.counts(3600).requests, 0);
    }

    #[test]
    fn threads_share_it() {
        let window = Window::new(10);
        window.record(7, true);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|count| window.record(7, count % 2 == 0)));
            }
        });
        assert_eq!(window.counts(7), Counts { requests: 4001, successes: 2001, age: 0 });
    }
}
