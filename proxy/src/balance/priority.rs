//! How traffic is shared between priorities, as Envoy does it.
//!
//! A priority is as healthy as its share of fit endpoints times the over-provisioning factor, 140 % unless configured:
//! one that lost less than that spare keeps all of its traffic, beyond it overflows to the next.

/// What a priority has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) fit: usize,
    pub(super) total: usize,
}

/// What a priority gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Of all traffic.
    pub(super) percent: u32,
    /// Whether its health is not believed: all of its endpoints get traffic.
    pub(super) panic: bool,
}

/// Shares traffic. The percentages are 100 together, or all 0 if nobody can be asked.
pub(super) fn share(levels: &[Census], overprovisioning: u32, panic_threshold: f64) -> Vec<Share> {
    let health: Vec<u32> = levels.iter().map(|level| level.health(overprovisioning)).collect();
    let available = health.iter().sum::<u32>().min(100);
    let panic = |level: &Census| available < 100 && level.total > 0 && level.is_below(panic_threshold);
    let mut shares: Vec<Share> =
        levels.iter().map(|level| Share { percent: 0, panic: panic(level) }).collect();
    if levels.iter().zip(&shares).all(|(level, share)| share.panic || level.total == 0) {
        // Nobody's health is believed, so it cannot decide who gets what.
        let total = levels.iter().map(|level| level.total).sum::<usize>().max(1);
        for (share, level) in shares.iter_mut().zip(levels) {
            share.percent = (level.total * 100 / total) as u32;
        }
    } else {
        let mut left = 100;
        for (share, health) in shares.iter_mut().zip(&health) {
            share.percent = (health * 100).checked_div(available).unwrap_or(0).min(left);
            left -= share.percent;
        }
    }
    // What rounding left over goes to the first that has something.
    let left = 100 - shares.iter().map(|share| share.percent).sum::<u32>();
    if let Some(first) = shares.iter_mut().find(|share| share.percent > 0) {
        first.percent += left;
    }
    shares
}

// === impl Census ===

impl Census {
    /// In percent.
    fn health(&self, overprovisioning: u32) -> u32 {
        let healthy = u64::from(overprovisioning) * self.fit as u64;
        healthy.checked_div(self.total as u64).map_or(0, |percent| percent.min(100) as u32)
    }

    fn is_below(&self, threshold: f64) -> bool {
        (self.fit as f64) * 100.0 < threshold * self.total as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(levels: &[(usize, usize)], threshold: f64) -> Vec<(u32, bool)> {
        let levels: Vec<_> = levels.iter().map(|(fit, total)| Census { fit: *fit, total: *total }).collect();
        share(&levels, 140, threshold).into_iter().map(|share| (share.percent, share.panic)).collect()
    }

    /// The tables of Envoy's documentation ("Priority levels" and "Panic threshold").
    #[test]
    fn traffic_overflows_as_envoy_documents_it() {
        for (first, expected) in
            [(100, (100, 0)), (72, (100, 0)), (71, (99, 1)), (50, (70, 30)), (25, (35, 65)), (0, (0, 100))]
        {
            let found = shares(&[(first, 100), (100, 100)], 50.0);
            assert_eq!((found[0].0, found[1].0), expected, "{first} % fit");
            assert!(found.iter().all(|share| !share.1), "no panic while all can be served: {first} % fit");
        }
        assert_eq!(shares(&[(25, 100), (25, 100)], 0.0), [(50, false), (50, false)]);
    }

    #[test]
    fn panic_is_for_priorities_that_lost_too_many_and_only_when_all_together_cannot_serve() {
        assert_eq!(shares(&[(49, 100)], 50.0), [(100, true)]);
        assert_eq!(shares(&[(50, 100)], 50.0), [(100, false)]);
        assert_eq!(shares(&[(0, 100)], 0.0), [(0, false)]);
        assert_eq!(shares(&[(0, 100)], 50.0), [(100, true)]);
        assert_eq!(shares(&[(0, 0)], 50.0), [(0, false)]);
        assert_eq!(shares(&[(0, 10), (0, 30)], 50.0), [(25, true), (75, true)]);
    }
}
