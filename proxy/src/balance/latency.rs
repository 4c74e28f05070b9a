//! What is remembered of an endpoint's latency: a moving average that is sensitive to peaks.
//!
//! It follows a rise at once and a fall slowly: an endpoint that stalls loses traffic with its first slow answer and gets
//! it back over some seconds. With `c` the latency just seen and `t` the time since the last answer,
//! `ewma = max(c, ewma * w + c * (1 - w))` where `w = exp(-t / decay)`. After Finagle's load metric of the same name.
//!
//! A failure that comes fast is no good answer. It counts as [`PENALTY`], twice as much as the last time while failures
//! follow each other, and this is forgotten over [`FORGIVEN`], so that an endpoint is tried again soon and hardly if it
//! fails again. Of an endpoint that says when it wants to be asked again (`retry-after`) this is believed.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::PeakEwma;

/// What the first failure counts, in microseconds.
const PENALTY: f64 = 1e6;
/// What failures in a row count at most, in microseconds.
const MAX_PENALTY: f64 = 64e6;
/// After this time the weight of a penalty is 1/e, in microseconds: what the first one costs is some seconds of traffic.
const FORGIVEN: f64 = 1e6;
/// The longest that an endpoint may ask to be left alone.
const MAX_HOLD: Duration = Duration::from_secs(300);

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The latency of one endpoint; shared by the workers.
///
/// The cells are not updated together. A reader that sees one of them new and another old errs by one sample, which a
/// heuristic may.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// Microseconds as the bits of an `f64`; 0 before the first answer.
    value: AtomicU64,
    /// Microseconds since [`ORIGIN`] of the last sample.
    updated: AtomicU64,
    /// Microseconds as the bits of an `f64`; 0 if the last answer was good.
    penalty: AtomicU64,
    /// Microseconds since [`ORIGIN`] from which on the penalty is forgotten.
    penalized: AtomicU64,
    /// Requests whose answer has not begun.
    waiting: AtomicU64,
    /// Microseconds since [`ORIGIN`] of the last answer, or of the first of the waiting requests if that is later.
    silent_since: AtomicU64,
}

// === impl Latency ===

impl Latency {
    /// A request is sent; it is to be followed by an [`Self::end`].
    pub(crate) fn begin(&self, now: Instant) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            self.silent_since.store(micros_at(now), Ordering::Relaxed);
        }
    }

    /// A request is answered, or nobody waits for its answer any more.
    pub(crate) fn end(&self, now: Instant) {
        self.silent_since.store(micros_at(now), Ordering::Relaxed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// There was no answer, and it would have taken longer than this.
    pub(crate) fn at_least(&self, latency: Duration, now: Instant) {
        let sample = latency.as_secs_f64() * 1e6;
        if sample > f64::from_bits(self.value.load(Ordering::Relaxed)) {
            self.value.store(sample.to_bits(), Ordering::Relaxed);
            self.updated.store(micros_at(now), Ordering::Relaxed);
        }
    }

    /// Adds the latency of a good answer that came at `now`.
    pub(crate) fn record(&self, latency: Duration, now: Instant, settings: &PeakEwma) {
        let sample = latency.as_secs_f64() * 1e6;
        let now = micros_at(now);
        let before = f64::from_bits(self.value.load(Ordering::Relaxed));
        let value = if before == 0.0 {
            sample
        } else {
            let since = now.saturating_sub(self.updated.load(Ordering::Relaxed));
            let weight = weight(since, settings.decay.as_secs_f64() * 1e6);
            sample.max(before * weight + sample * (1.0 - weight))
        };
        self.value.store(value.to_bits(), Ordering::Relaxed);
        self.updated.store(now, Ordering::Relaxed);
        if self.penalty.load(Ordering::Relaxed) != 0 {
            self.penalty.store(0, Ordering::Relaxed);
        }
    }

    /// Takes note of a failure at `now`, and of when the endpoint wants to be asked again.
    pub(crate) fn failed(&self, now: Instant, retry_after: Option<Duration>) {
        let before = f64::from_bits(self.penalty.load(Ordering::Relaxed));
        let penalty = (before * 2.0).clamp(PENALTY, MAX_PENALTY);
        let hold = retry_after.map_or(Duration::ZERO, |hold| hold.min(MAX_HOLD));
        let from = micros_at(now + hold);
        self.penalty.store(penalty.to_bits(), Ordering::Relaxed);
        // One that was just told to wait is not asked sooner because an older request fails without a word.
        self.penalized.fetch_max(from, Ordering::Relaxed);
    }

    /// How long an answer should take, in microseconds; at least 1.
    pub(super) fn expected(&self, settings: &PeakEwma, now: Instant) -> f64 {
        let now = micros_at(now);
        let value = match f64::from_bits(self.value.load(Ordering::Relaxed)) {
            0.0 => settings.unknown.as_secs_f64() * 1e6,
            // An endpoint that gets no traffic because it was slow must become worth a try again.
            value => {
                let since = now.saturating_sub(self.updated.load(Ordering::Relaxed));
                value * weight(since, settings.decay.as_secs_f64() * 1e6)
            }
        };
        value.max(1.0).max(self.silence_at(now)) + self.penalty_at(now)
    }

    /// How long the endpoint has owed an answer at least: one that hangs must not look as fast as its last answer was.
    fn silence_at(&self, now: u64) -> f64 {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return 0.0;
        }
        now.saturating_sub(self.silent_since.load(Ordering::Relaxed)) as f64
    }

    fn penalty_at(&self, now: u64) -> f64 {
        let penalty = f64::from_bits(self.penalty.load(Ordering::Relaxed));
        if penalty == 0.0 {
            return 0.0;
        }
        let from = self.penalized.load(Ordering::Relaxed);
        if now < from { MAX_PENALTY } else { penalty * weight(now - from, FORGIVEN) }
    }
}

fn weight(since: u64, decay: f64) -> f64 {
    (-(since as f64) / decay).exp()
}

fn micros_at(moment: Instant) -> u64 {
    u64::try_from(moment.saturating_duration_since(*ORIGIN).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(latency: &Latency) -> f64 {
        latency.expected(&PeakEwma::default(), Instant::now())
    }

    fn record(latency: &Latency, millis: u64) {
        latency.record(Duration::from_millis(millis), Instant::now(), &PeakEwma::default());
    }

    #[tokio::test(start_paused = true)]
    async fn rises_at_once_and_falls_slowly() {
        let latency = Latency::default();
        record(&latency, 1);
        record(&latency, 100);
        let peak = expected(&latency);
        assert!(peak > 99_000.0, "{peak}");
        tokio::time::advance(Duration::from_secs(1)).await;
        record(&latency, 1);
        let after = expected(&latency);
        assert!(after > 80_000.0 && after < peak, "{after}");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(expected(&latency) < 1000.0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_cost_more_the_more_follow_and_a_good_answer_forgives_all() {
        let latency = Latency::default();
        record(&latency, 1);
        latency.failed(Instant::now(), None);
        let once = expected(&latency);
        assert!(once > 1e6, "{once}");
        latency.failed(Instant::now(), None);
        assert!(expected(&latency) > once * 1.9);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(expected(&latency) < 1000.0, "worth a try again: {}", expected(&latency));
        latency.failed(Instant::now(), None);
        assert!(expected(&latency) > once * 3.0, "and the third failure in a row counts four times");
        record(&latency, 1);
        assert!(expected(&latency) < 1100.0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_due_counts_before_it_comes() {
        let latency = Latency::default();
        record(&latency, 1);
        latency.begin(Instant::now());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(expected(&latency) >= 2e6);
        latency.at_least(Duration::from_secs(2), Instant::now());
        latency.end(Instant::now());
        assert!(expected(&latency) >= 2e6, "that the client gave up makes it no faster");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_to_be_left_alone_is() {
        let latency = Latency::default();
        latency.failed(Instant::now(), Some(Duration::from_secs(20)));
        tokio::time::advance(Duration::from_secs(19)).await;
        assert_eq!(expected(&latency), MAX_PENALTY + 1000.0);
        latency.failed(Instant::now(), None);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(expected(&latency) < 2000.0, "{}", expected(&latency));
    }
}
