//! Retries that first attempts have earned.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What may be spent on retries: each request earns a fifth of one, each retry costs one. So however fast attempts fail,
/// over time the upstream bears less than 1.2 times what is offered. [`START`] and [`PER_SECOND`] are for clusters with
/// hardly any requests. (The idea is that of Finagle's `RetryBudget`.)
#[derive(Debug)]
pub(super) struct Savings {
    thousandths: AtomicI64,
    /// When the last retry was given that nobody had earned; milliseconds.
    given: AtomicU64,
}

/// What a request earns, in thousandths of a retry: a fifth, less a twentieth of that for what need not be earned.
const EARNED: i64 = 190;
const COST: i64 = 1_000;
/// Retries that a new cluster may spend.
const START: i64 = 10;
/// Good times do not pay for more than this many retries in bad ones.
pub(super) const MOST: i64 = 100;
/// Retries that need not be earned.
const PER_SECOND: u64 = 3;

// === impl Savings ===

impl Default for Savings {
    fn default() -> Self {
        Self { thousandths: (START * COST).into(), given: AtomicU64::new(0) }
    }
}

impl Savings {
    /// Takes note of a request.
    pub(super) fn earn(&self) {
        // A plain load first: in good times nobody writes to the shared line.
        if self.thousandths.load(Ordering::Relaxed) < MOST * COST {
            self.thousandths.fetch_add(EARNED, Ordering::Relaxed);
        }
    }

    /// Pays for a retry at `now`, in milliseconds of any clock; whether there was enough.
    pub(super) fn spend(&self, now: u64) -> bool {
        if self.thousandths.fetch_sub(COST, Ordering::Relaxed) >= COST {
            return true;
        }
        self.thousandths.fetch_add(COST, Ordering::Relaxed);
        let given = self.given.load(Ordering::Relaxed);
        now.saturating_sub(given) >= 1_000 / PER_SECOND
            && self.given.compare_exchange(given, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_spent_never_exceeds_what_was_earned(
            steps in prop::collection::vec((any::<bool>(), 0..200u64), 0..3_000),
        ) {
            let savings = Savings::default();
            let (mut now, mut requests, mut retries) = (1_000, 0, 0);
            for (request, pause) in steps {
                now += pause;
                if request {
                    savings.earn();
                    requests += 1;
                } else if savings.spend(now) {
                    retries += 1;
                }
                let unearned = START as u64 + (now * PER_SECOND).div_ceil(1_000);
                prop_assert!(retries * 5 <= requests + 5 * unearned, "{retries} of {requests} by {now} ms");
            }
        }
    }

    #[test]
    fn a_cluster_with_few_requests_may_retry_them_all() {
        let savings = Savings::default();
        for second in 1..100 {
            savings.earn();
            assert!(savings.spend(second * 1_000));
        }
    }
}
