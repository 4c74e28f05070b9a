//! Gauges whose names their owner brings along.

use std::sync::atomic::{AtomicU64, Ordering};

/// Some gauges with the same labels. Any thread may set them.
#[derive(Debug)]
pub(crate) struct GaugeSet {
    names: &'static [&'static str],
    /// The bits of floating-point numbers.
    values: Box<[AtomicU64]>,
}

// === impl GaugeSet ===

impl GaugeSet {
    pub(super) fn new(names: &'static [&'static str]) -> Self {
        Self { names, values: names.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn set(&self, index: usize, value: f64) {
        self.values[index].store(value.to_bits(), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let values = self.values.iter().map(|value| f64::from_bits(value.load(Ordering::Relaxed)));
        self.names.iter().copied().zip(values)
    }
}
