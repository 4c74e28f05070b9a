//! `RANDOM`, and the random numbers of the data threads.

use std::cell::Cell;

use super::schedule;

/// A worker's small random numbers: xorshift, since neither secrecy nor perfection is asked for.
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

/// Everybody with the chance of its weight.
#[derive(Debug)]
pub(super) struct Table {
    count: usize,
    /// Indexes, as often as their weight says; empty when all weights are equal.
    order: Vec<u32>,
}

// === impl Random ===

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Whether one of so many millionths of all was drawn. All and none cost nothing.
    pub(crate) fn chance(&self, millionths: u32) -> bool {
        millionths >= 1_000_000 || (millionths > 0 && self.below(1_000_000) < millionths as usize)
    }

    /// Uniform enough in `0..bound`; `bound` is at least 1.
    pub(crate) fn below(&self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

// === impl Table ===

impl Table {
    pub(super) fn new(weights: &[f64]) -> Self {
        Self { count: weights.len(), order: schedule::smooth(weights) }
    }

    pub(super) fn choose(&self, random: &Random) -> usize {
        if self.order.is_empty() {
            random.below(self.count)
        } else {
            self.order[random.below(self.order.len())] as usize
        }
    }
}
