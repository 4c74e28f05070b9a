//! Circuit breakers: hard limits on what a cluster is burdened with.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The limits; Envoy's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) connections: u64,
    pub(crate) pending: u64,
    pub(crate) requests: u64,
    pub(crate) retries: u64,
}

/// The limits of a cluster and how much of each is used, over all workers.
#[derive(Debug)]
pub(crate) struct Breaker {
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<AtomicU64>,
    pub(crate) pending: Arc<AtomicU64>,
    pub(crate) requests: Arc<AtomicU64>,
    pub(crate) retries: Arc<AtomicU64>,
}

/// One unit of a limit, given back on drop.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicU64>);

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, pending: 1024, requests: 1024, retries: 3 }
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
        }
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
}
