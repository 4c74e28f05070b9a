//! Cells with one writer each.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only goes up, written by one thread and read by any.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// One `T` per worker.
#[derive(Debug)]
pub(crate) struct PerWorker<T>(Box<[T]>);

// === impl Counter ===

impl Counter {
    /// Adds. Only the cell's own worker may call this: a load and a store instead of a locked instruction.
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl PerWorker ===

impl<T: Default> PerWorker<T> {
    pub(crate) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| T::default()).collect())
    }

    /// The cells of a worker.
    pub(crate) fn at(&self, worker: usize) -> &T {
        &self.0[worker]
    }

    /// One counter, summed over the workers.
    pub(crate) fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.0.iter().map(|cells| counter(cells).get()).fold(0, u64::wrapping_add)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}
