//! Weights as an order.

use std::{cmp::Reverse, collections::BinaryHeap};

/// How many places an order may have beyond one for each index; finer weights are rounded.
const RESOLUTION: usize = 1024;

/// An order of the indexes of `weights` in which each comes as often as its weight says, and evenly spread; empty when
/// all are equal. A weight that is not 0 never vanishes.
///
/// Earliest deadline first: an index of weight `w` is due in the middle of each `1/w`-th of the order.
pub(super) fn smooth(weights: &[f64]) -> Vec<u32> {
    if weights.windows(2).all(|pair| pair[0] == pair[1]) {
        return Vec::new();
    }
    let shares = shares(weights);
    let total: usize = shares.iter().sum();
    let deadline = |index: usize, nth: usize| {
        // As a number that orders: parts of the whole in units that leave no ties but true ones.
        ((2 * nth + 1) as u128 * (1 << 64)) / (2 * shares[index]) as u128
    };
    let mut due: BinaryHeap<_> = (0..shares.len())
        .filter(|index| shares[*index] > 0)
        .map(|index| Reverse((deadline(index, 0), index, 0)))
        .collect();
    let mut order = Vec::with_capacity(total);
    while let Some(Reverse((_, index, nth))) = due.pop() {
        order.push(index as u32);
        if nth + 1 < shares[index] {
            due.push(Reverse((deadline(index, nth + 1), index, nth + 1)));
        }
    }
    order
}

/// Whole numbers in the relation of the weights, as small as can be.
fn shares(weights: &[f64]) -> Vec<usize> {
    let whole = weights.iter().all(|weight| weight.fract() == 0.0 && *weight < 9e15);
    if whole {
        let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight as u64)).max(1);
        let total: u64 = weights.iter().map(|weight| *weight as u64 / divisor).sum();
        if total <= (RESOLUTION + weights.len()) as u64 {
            return weights.iter().map(|weight| (*weight as u64 / divisor) as usize).collect();
        }
    }
    let total: f64 = weights.iter().sum();
    let share = |weight: &f64| match weight {
        0.0 => 0,
        weight => ((weight / total * RESOLUTION as f64).round() as usize).max(1),
    };
    weights.iter().map(share).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_smooth_and_bounded() {
        assert_eq!(smooth(&[2.0, 4.0, 2.0]), [1, 0, 2, 1]);
        assert!(smooth(&[3.0, 3.0]).is_empty());
        assert!(smooth(&[1.0, 1_000_000.0]).len() <= RESOLUTION + 2);
        assert_eq!(smooth(&[0.0, 1.5]), vec![1; RESOLUTION]);
        assert_eq!(smooth(&[1.0, 1_000_000.0]).iter().filter(|index| **index == 0).count(), 1);
    }
}
