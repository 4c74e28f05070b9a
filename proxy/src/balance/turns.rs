//! How far a worker's round robins are.

use std::cell::RefCell;

/// One count for each group of a cluster. Counts outlive a change of the set: the next turn is the next endpoint.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Where a new count starts: if all began with the first endpoint, it would get the first request of every worker.
    start: usize,
    counts: RefCell<Vec<usize>>,
}

// === impl Turns ===

impl Turns {
    pub(crate) fn starting_at(start: usize) -> Self {
        Self { start, counts: RefCell::default() }
    }

    pub(super) fn next(&self, slot: usize) -> usize {
        let mut counts = self.counts.borrow_mut();
        if counts.len() <= slot {
            counts.resize(slot + 1, self.start);
        }
        let turn = counts[slot];
        counts[slot] = turn.wrapping_add(1);
        turn
    }
}
