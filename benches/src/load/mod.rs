//! Load that wrk and h2load do not make, and the upstream that costs least: the `bench-load` program.
//!
//! It runs on the same core as the upstream, one thread for all connections, and prints one line of JSON.

use std::{future::Future, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

pub mod bulk;
pub mod connect;
pub mod handshake;
pub mod held;
pub mod paced;
pub mod serve;

/// Longest wait for any one exchange: what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests, connections or handshakes that succeeded.
    pub done: u64,
    /// Those that did not.
    pub failed: u64,
    /// Bytes received.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Microseconds from the planned time of a request to its answer: median, 99th and 99.9th percentile.
    pub latency: Option<[f64; 3]>,
    /// What the first failure was.
    pub error: Option<String>,
}

// === impl Report ===

impl Report {
    fn count(&mut self, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.done += 1,
            Err(error) => {
                self.failed += 1;
                self.error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.failed += other.failed;
        self.bytes += other.bytes;
        if self.error.is_none() {
            self.error = other.error;
        }
    }
}

/// Does the same again and again in `tasks` tasks until `length` is over.
async fn repeat<F>(tasks: u32, length: Duration, exchange: impl Fn() -> F) -> anyhow::Result<Report>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
    F::Output: Send,
{
    let started = Instant::now();
    let mut report = Report::default();
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        running.spawn(exchange());
    }
    while let Some(joined) = running.join_next().await {
        report.count(joined?);
        if started.elapsed() < length {
            running.spawn(exchange());
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}
