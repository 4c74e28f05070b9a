//! Latency histograms with Envoy's buckets.

use std::time::Duration;

use super::Counter;

/// Upper bounds in milliseconds; Envoy's defaults for Prometheus.
pub(crate) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// The same in microseconds.
const BOUNDS_MICROS: [u64; 19] = [
    500,
    1000,
    5000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Durations, counted by bucket.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Not cumulative; the last is "longer than every bound".
    buckets: [Counter; BOUNDS.len() + 1],
    sum_micros: Counter,
}

/// A histogram summed over workers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Summed {
    /// Cumulative, one for each of [`BOUNDS`].
    pub(crate) cumulative: Vec<u64>,
    pub(crate) count: u64,
    pub(crate) sum_millis: f64,
}

// === impl Histogram ===

impl Histogram {
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        // Most requests fall into the first buckets: a walk beats a binary search.
        let bucket = BOUNDS_MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.sum_micros.add(micros);
    }
}

// === impl Summed ===

impl Summed {
    pub(crate) fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut buckets = [0u64; BOUNDS.len() + 1];
        let mut sum_micros = 0;
        for histogram in histograms {
            for (total, bucket) in buckets.iter_mut().zip(&histogram.buckets) {
                *total += bucket.get();
            }
            sum_micros += histogram.sum_micros.get();
        }
        let mut count = 0;
        let mut cumulative: Vec<u64> = buckets
            .iter()
            .map(|bucket| {
                count += bucket;
                count
            })
            .collect();
        cumulative.pop();
        Self { cumulative, count, sum_millis: sum_micros as f64 / 1000.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_summed_over_workers() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.record(Duration::from_micros(400));
        b.record(Duration::from_millis(3));
        b.record(Duration::from_secs(100_000));
        let summed = Summed::of([&a, &b].into_iter());
        assert_eq!((summed.cumulative[0], summed.cumulative[1], summed.cumulative[2]), (1, 1, 2));
        assert_eq!((summed.cumulative[18], summed.count), (2, 3));
    }
}
