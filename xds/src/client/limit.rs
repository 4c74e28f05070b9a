//! How many requests a server is sent: `rate_limit_settings`.
//!
//! As in Envoy: a bucket of tokens that outlives streams, of which each request takes one. Without a token it waits for the
//! next one, and all after it do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, sleep_until},
};

/// How many requests may be sent at once, and how soon one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestLimit {
    /// Size of the bucket; at least one. It is full at first.
    pub max: u32,
    /// How long it takes to get one token back; more than zero.
    pub every: Duration,
}

/// Lets requests through in their turn.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Option<RequestLimit>,
    /// When the bucket is full again if nothing is taken, which says how many tokens there are at any time.
    full_at: Mutex<Instant>,
    delayed: Arc<AtomicU64>,
}

// === impl Pace ===

impl Pace {
    /// With a full bucket, or without a limit; counts each request that has to wait.
    pub(super) fn new(limit: Option<RequestLimit>, delayed: Arc<AtomicU64>) -> Self {
        Self { limit, full_at: Mutex::new(Instant::now()), delayed }
    }

    /// What comes out of a channel, no faster than that.
    pub(super) fn apply<R: Send + 'static>(
        self: Arc<Self>,
        requests: UnboundedReceiver<R>,
    ) -> impl Stream<Item = R> + Send + 'static {
        stream::unfold((self, requests), async |(pace, mut requests)| {
            let request = requests.recv().await?;
            pace.take().await;
            Some((request, (pace, requests)))
        })
    }

    /// Takes a token, once there is one.
    async fn take(&self) {
        let Some(RequestLimit { max, every }) = self.limit else { return };
        let all_but_one = every.saturating_mul(max.saturating_sub(1));
        let wait = {
            let mut full_at = self.full_at.lock();
            let now = Instant::now();
            let wait = full_at.saturating_duration_since(now).saturating_sub(all_but_one);
            // A token that is taken before it is there is so by nobody else. What is too far away is for ever.
            *full_at = (*full_at).max(now).checked_add(every).unwrap_or(*full_at);
            wait
        };
        if !wait.is_zero() {
            self.delayed.fetch_add(1, Ordering::Relaxed);
            match Instant::now().checked_add(wait) {
                Some(then) => sleep_until(then).await,
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::mpsc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When each of so many requests goes, with the number of those that waited.
    async fn times(limit: Option<RequestLimit>, count: usize) -> (Vec<Duration>, u64) {
        let delayed = Arc::new(AtomicU64::new(0));
        let pace = Arc::new(Pace::new(limit, Arc::clone(&delayed)));
        let (requests, receiver) = mpsc::unbounded_channel();
        (0..count).for_each(|request| requests.send(request).expect("open"));
        drop(requests);
        let start = Instant::now();
        let times = pace.apply(receiver).map(|_| start.elapsed()).collect().await;
        (times, delayed.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_lets_as_many_go_at_once_as_it_holds_and_then_as_it_is_filled() {
        let limit = RequestLimit { max: 3, every: SECOND };
        let (times, delayed) = times(Some(limit), 5).await;
        assert_eq!(times, [0, 0, 0, 1, 2].map(|seconds| SECOND * seconds));
        assert_eq!(delayed, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let (times, delayed) = times(None, 1000).await;
        assert!(times.iter().all(Duration::is_zero) && delayed == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_on_one_stream_is_missing_on_the_next_until_it_is_filled() {
        let limit = RequestLimit { max: 2, every: SECOND };
        let pace = Arc::new(Pace::new(Some(limit), Arc::default()));
        let start = Instant::now();
        for _ in 0..3 {
            pace.take().await;
        }
        assert_eq!(start.elapsed(), SECOND);
        // More time than it takes to fill it fills it, and no more than that.
        tokio::time::advance(SECOND * 10).await;
        let start = Instant::now();
        for _ in 0..3 {
            pace.take().await;
        }
        assert_eq!(start.elapsed(), SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_and_the_largest_bucket_is_no_mistake_in_arithmetic() {
        let limit = RequestLimit { max: u32::MAX, every: Duration::MAX };
        let (times, _) = times(Some(limit), 3).await;
        assert!(times.iter().all(Duration::is_zero));
    }
}
