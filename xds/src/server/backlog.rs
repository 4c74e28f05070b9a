//! How far proxies are behind.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the responses that no proxy answered yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    unanswered: AtomicUsize,
    /// Somebody waits for fewer than so many.
    target: AtomicUsize,
    reached: Notify,
}

// === impl Backlog ===

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.unanswered.load(Ordering::Acquire)
    }

    pub(super) fn add(&self) {
        self.unanswered.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove(&self, answered: usize) {
        let left = self.unanswered.fetch_sub(answered, Ordering::AcqRel) - answered;
        if answered > 0 && left <= self.target.load(Ordering::Acquire) {
            self.reached.notify_waiters();
        }
    }

    /// Returns when no more than `laggards` are left. One at a time may wait.
    pub(super) async fn at_most(&self, laggards: usize) {
        self.target.store(laggards, Ordering::Release);
        loop {
            // Enabled before the look at the count, so that no answer in between is missed.
            let reached = self.reached.notified();
            tokio::pin!(reached);
            reached.as_mut().enable();
            if self.len() <= laggards {
                return;
            }
            reached.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_when_few_enough_are_left() {
        let backlog = Arc::new(Backlog::default());
        (0..3).for_each(|_| backlog.add());
        let waiting = backlog.at_most(1);
        let mut waiting = tokio_test::task::spawn(waiting);
        assert!(waiting.poll().is_pending());
        backlog.remove(1);
        assert!(waiting.poll().is_pending());
        backlog.remove(1);
        assert!(waiting.is_woken());
        assert!(waiting.poll().is_ready());
    }
}
