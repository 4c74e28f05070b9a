//! `ROUND_ROBIN`: in turn, by weight.

use super::{Turns, schedule};

/// Whose turn it is, by the worker's count.
#[derive(Debug)]
pub(super) struct Table {
    count: usize,
    /// Indexes in a smooth order by weight; empty when all weights are equal.
    order: Vec<u32>,
}

// === impl Table ===

impl Table {
    pub(super) fn new(weights: &[f64]) -> Self {
        Self { count: weights.len(), order: schedule::smooth(weights) }
    }

    /// The next one; `slot` is the group's place in `turns`.
    pub(super) fn choose(&self, turns: &Turns, slot: usize) -> usize {
        let turn = turns.next(slot);
        if self.order.is_empty() { turn % self.count } else { self.order[turn % self.order.len()] as usize }
    }
}
