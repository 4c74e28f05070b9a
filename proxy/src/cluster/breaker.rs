//! Circuit breakers: hard limits on what a cluster is burdened with.

mod savings;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use self::savings::Savings;
use super::endpoint::process_clock;

/// The limits; Envoy's defaults, but for retries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limits {
    pub(crate) connections: u64,
    pub(crate) pending: u64,
    pub(crate) requests: u64,
    pub(crate) retries: RetryLimit,
}

/// Which limits a request is under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Priority {
    #[default]
    Default,
    High,
}

/// How many requests may be at their second or a later attempt at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RetryLimit {
    Number(u64),
    /// A share of the requests that are at their first attempt, but never less than `least`. (Envoy counts the retries
    /// themselves in, so that its 20 % is a load of 1.25 times what is offered; ours is 1.2 times.)
    Budget {
        percent: f64,
        least: u64,
    },
    /// Where nothing is configured: over time no more than [`Savings`] allow, a fifth of what is offered. At a moment there
    /// may be as many as can be saved, for what fails, fails at the same moment: requests that hang run into their timeout
    /// together. (A share of what is under way at a moment would be less than those, and yet no bound over time, since
    /// retries that fail faster than first attempts are many.)
    Earned,
}

/// The limits of a cluster and how much of each is used, over all workers.
#[derive(Debug)]
pub(crate) struct Breaker {
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) pending: Arc<AtomicU64>,
    pub(crate) requests: Arc<AtomicU64>,
    pub(crate) retries: Arc<AtomicU64>,
    savings: Savings,
}

/// One unit of a limit, given back on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicU64>);

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retries: RetryLimit::Earned }
    }
}

// === impl RetryLimit ===

impl RetryLimit {
    /// Envoy's share where a budget does not say its own; here also where there is neither budget nor number.
    pub(crate) const PERCENT: f64 = 20.0;
    /// Envoy's least number of retries in a budget.
    pub(crate) const LEAST: u32 = 3;

    /// The number that it is while there are `requests`, with those that are retried.
    pub(crate) fn of(self, requests: u64) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Earned => {
                Self::Budget { percent: Self::PERCENT, least: savings::MOST.unsigned_abs() }.of(requests)
            }
            Self::Budget { percent, least } => {
                // The share of the whole that is `percent` of the rest; the small bit is for what division loses.
                let share = percent / (100.0 + percent);
                ((requests as f64 * share + 1e-9) as u64).max(least)
            }
        }
    }
}

// === impl Breaker ===

impl Breaker {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: Arc::default(),
            pending: Arc::default(),
            requests: Arc::default(),
            retries: Arc::default(),
            savings: Savings::default(),
        }
    }

    /// How many retries there may be at the moment.
    pub(crate) fn max_retries(&self) -> u64 {
        self.limits.retries.of(self.requests.load(Ordering::Relaxed))
    }

    /// Takes note of a request that might be tried again.
    pub(crate) fn may_retry(&self) {
        if self.limits.retries == RetryLimit::Earned {
            self.savings.earn();
        }
    }

    /// Whether attempts that no upstream noticed are repeated whatever the budget: where nothing is configured, the budget
    /// is there to protect upstreams, and these are no load. With one endpoint of four dead and a fifth for a budget, one
    /// request of twenty would fail for nothing.
    pub(crate) fn lets_unnoticed_be_repeated(&self) -> bool {
        self.limits.retries == RetryLimit::Earned
    }

    /// The right to try a request again, held until it is over. To be asked for again, with the `held`, for each attempt.
    pub(crate) fn retry(&self, held: Option<Permit>) -> Option<Permit> {
        let permit = held.or_else(|| Permit::take(&self.retries, self.max_retries()))?;
        (self.limits.retries != RetryLimit::Earned || self.savings.spend(process_clock())).then_some(permit)
    }
}

// === impl Permit ===

impl Permit {
    /// Takes one unit of `used`, or nothing if `limit` are taken.
    pub(crate) fn take(used: &Arc<AtomicU64>, limit: u64) -> Option<Self> {
        // Add first, look then: two who race past a limit at once both see it and both give back.
        if used.fetch_add(1, Ordering::Relaxed) >= limit {
            used.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(Arc::clone(used)))
    }

    /// Takes one unit whatever the limit.
    pub(crate) fn force(used: &Arc<AtomicU64>) -> Self {
        used.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(used))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_counts_until_it_is_dropped() {
        let used = Arc::default();
        let first = Permit::take(&used, 1).expect("one is free");
        assert!(Permit::take(&used, 1).is_none());
        drop(first);
        assert!(Permit::take(&used, 1).is_some());
    }

    #[test]
    fn threads_share_a_limit_and_together_never_exceed_it() {
        const LIMIT: u64 = 3;
        let used = Arc::default();
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(permit) = Permit::take(&used, LIMIT) {
                            most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            held.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!((1..=LIMIT).contains(&most.load(Ordering::SeqCst)), "{most:?}");
        assert_eq!(used.load(Ordering::SeqCst), 0, "all were given back");
    }

    #[test]
    fn a_budget_never_exceeds_its_share_of_first_attempts() {
        for percent in [0.0, 5.0, 20.0, 50.0, 100.0] {
            for requests in 0..2_000u64 {
                let retries = RetryLimit::Budget { percent, least: 0 }.of(requests);
                let first = requests - retries;
                assert!(retries as f64 <= percent / 100.0 * first as f64 + 1e-9, "{retries} of {requests}");
                assert!(
                    (retries + 1) as f64 > percent / 100.0 * (first as f64 - 1.0),
                    "{retries} of {requests}"
                );
            }
        }
        assert_eq!(RetryLimit::Earned.of(0), 100);
        assert_eq!(RetryLimit::Earned.of(1_200), 200);
        assert_eq!(RetryLimit::Number(7).of(1_000), 7);
    }
}
