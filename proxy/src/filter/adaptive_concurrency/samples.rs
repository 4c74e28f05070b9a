//! Latencies, counted by size.

use std::sync::atomic::{AtomicU32, Ordering};

/// Each power of two is divided into so many buckets: a value is known to 3 %.
const STEPS: usize = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// The largest exponent: over an hour, in microseconds.
const EXPONENTS: usize = 32;
const BUCKETS: usize = STEPS * (EXPONENTS - STEP_BITS as usize + 1);

/// Any thread may add; that one is added while another reads or empties it costs no more than that one.
#[derive(Debug)]
pub(super) struct Samples {
    buckets: Box<[AtomicU32]>,
    count: AtomicU32,
}

// === impl Samples ===

impl Default for Samples {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(), count: AtomicU32::new(0) }
    }
}

impl Samples {
    /// Adds one; how many there are now.
    pub(super) fn add(&self, micros: u64) -> u32 {
        self.buckets[index(micros)].fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// The value below which this share is, in microseconds, and nothing more after that; `None` if there is none.
    pub(super) fn take(&self, share: f64) -> Option<u64> {
        self.count.store(0, Ordering::Relaxed);
        let counts: Vec<u32> = self.buckets.iter().map(|bucket| bucket.swap(0, Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().copied().map(u64::from).sum();
        if total == 0 {
            return None;
        }
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        Some(middle(found.unwrap_or(BUCKETS - 1)))
    }
}

/// Small values have a bucket each; above, the leading bits choose.
fn index(micros: u64) -> usize {
    let micros = micros.max(1);
    let exponent = micros.ilog2();
    if exponent < STEP_BITS {
        return usize::try_from(micros).unwrap_or(0);
    }
    let shift = exponent - STEP_BITS;
    let step = usize::try_from(micros >> shift).unwrap_or(0) - STEPS;
    (STEPS * (shift as usize + 1) + step).min(BUCKETS - 1)
}

/// The middle of what goes into a bucket.
fn middle(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let (shift, step) = (index / STEPS - 1, index % STEPS);
    let start = ((STEPS + step) as u64) << shift;
    start + (1_u64 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_known_nearly() {
        for value in [1, 2, 31, 32, 33, 100, 1000, 12_345, 1_000_000, 3_599_000_000] {
            let (samples, slack) = (Samples::default(), value as f64 * 0.02 + 0.5);
            assert_eq!(samples.add(value), 1);
            let found = samples.take(0.5).expect("one");
            assert!((found as f64 - value as f64).abs() <= slack, "{value}: {found}");
            assert_eq!(samples.take(0.5), None);
        }
        assert!(index(u64::MAX) < BUCKETS && index(0) < BUCKETS);
    }

    #[test]
    fn a_share_of_the_values_is_below() {
        let samples = Samples::default();
        (1..=100).for_each(|value| {
            samples.add(value * 1000);
        });
        let found = samples.take(0.9).expect("some") as f64;
        assert!((found - 90_000.0).abs() < 2000.0, "{found}");
    }
}
