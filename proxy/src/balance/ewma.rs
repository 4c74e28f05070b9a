//! Peak-sensitive exponentially weighted moving average of latency.
//!
//! The average follows a rise at once and a fall slowly: an endpoint that stalls loses traffic with its first slow
//! answer and gets it back over some seconds. With `c` the latency just seen and `t` the time since the last answer,
//! `ewma = max(c, ewma * w + c * (1 - w))` where `w = exp(-t / DECAY)`. The cost of one more request is
//! `ewma * (in flight + 1)`. After Finagle's load metric of the same name.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// How long a slow answer is remembered: after this time its weight is 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// Cost of an endpoint that has not answered yet, in microseconds: low enough to be tried, so that a new endpoint gets
/// traffic at once, while its requests in flight keep it from being flooded.
const UNKNOWN: f64 = 1000.0;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The moving average of one endpoint; shared by the workers.
///
/// The two cells are not updated together. A reader that sees one of them new and the other old errs by one sample,
/// which a heuristic may.
#[derive(Debug, Default)]
pub(crate) struct PeakEwma {
    /// Microseconds as the bits of an `f64`; 0 before the first answer.
    value: AtomicU64,
    /// Microseconds since [`ORIGIN`] of the last sample.
    updated: AtomicU64,
}

impl PeakEwma {
    /// Adds the latency of an answer.
    pub(crate) fn record(&self, latency: Duration) {
        let sample = latency.as_secs_f64() * 1e6;
        let now = micros_now();
        let before = f64::from_bits(self.value.load(Ordering::Relaxed));
        let since = now.saturating_sub(self.updated.load(Ordering::Relaxed));
        let value = if before == 0.0 { sample } else { mix(before, sample, since) };
        self.value.store(value.to_bits(), Ordering::Relaxed);
        self.updated.store(now, Ordering::Relaxed);
    }

    /// What one more request costs with `active` in flight.
    pub(crate) fn cost(&self, active: u64) -> f64 {
        let value = f64::from_bits(self.value.load(Ordering::Relaxed));
        let value = if value == 0.0 {
            UNKNOWN
        } else {
            // An endpoint that gets no traffic because it was slow must become worth a try again.
            let since = micros_now().saturating_sub(self.updated.load(Ordering::Relaxed));
            value * weight(since)
        };
        value.max(1.0) * (active as f64 + 1.0)
    }
}

fn mix(before: f64, sample: f64, since_micros: u64) -> f64 {
    let weight = weight(since_micros);
    sample.max(before * weight + sample * (1.0 - weight))
}

fn weight(since_micros: u64) -> f64 {
    (-(since_micros as f64) / (DECAY.as_secs_f64() * 1e6)).exp()
}

fn micros_now() -> u64 {
    u64::try_from(ORIGIN.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rises_at_once_and_falls_slowly() {
        let ewma = PeakEwma::default();
        ewma.record(Duration::from_millis(1));
        ewma.record(Duration::from_millis(100));
        let peak = ewma.cost(0);
        assert!(peak > 99_000.0, "{peak}");
        tokio::time::advance(Duration::from_secs(1)).await;
        ewma.record(Duration::from_millis(1));
        let after = ewma.cost(0);
        assert!(after > 80_000.0 && after < peak, "{after}");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(ewma.cost(0) < 1000.0);
    }

    #[test]
    fn requests_in_flight_raise_the_cost() {
        let ewma = PeakEwma::default();
        assert!(ewma.cost(3) > ewma.cost(0));
    }
}
