//! When the next round of changes goes out.
//!
//! The first change goes at once. The next one waits until the proxies have answered to it: a proxy that has not could
//! not be told anyway, and what comes meanwhile goes out together. A proxy that is slow, or never answers, is waited for
//! only so long, and then no more: those that owed an answer at the end of the wait are not counted the next time.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use weft_xds::server::SnapshotCache;

/// How long a change may wait for proxies that are slow to answer to the one before.
const LONGEST: Duration = Duration::from_millis(100);
/// Answers come back in less than this only from few proxies; resting as long coalesces what belongs together.
const SHORTEST: Duration = Duration::from_millis(1);

/// Decides when the next round of changes goes out.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the last round went out; `None` when the next may.
    since: Option<Instant>,
    /// As many proxies did not answer to earlier rounds in time.
    laggards: usize,
}

// === impl Pace ===

impl Pace {
    /// A round went out.
    pub(crate) fn published(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Whether the next round has to wait.
    pub(crate) fn is_resting(&self) -> bool {
        self.since.is_some()
    }

    /// Returns when the next round may go. Cancel-safe.
    pub(crate) async fn rest(&mut self, cache: &SnapshotCache) {
        let Some(since) = self.since else { return };
        // The streams' tasks have to have their turn before they owe anything.
        sleep_until(since + SHORTEST).await;
        tokio::select! {
            () = cache.answered(self.laggards) => self.laggards = self.laggards.min(cache.unanswered()),
            () = sleep_until(since + LONGEST) => self.laggards = cache.unanswered(),
        }
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn without_a_proxy_that_owes_an_answer_the_next_round_follows_at_once() {
        let (mut pace, cache) = (Pace::default(), SnapshotCache::new());
        assert!(!pace.is_resting());
        pace.published();
        let started = Instant::now();
        pace.rest(&cache).await;
        assert!(!pace.is_resting());
        assert!(started.elapsed() <= SHORTEST * 2);
    }
}
