//! How many connections may be open at a time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    cluster::breaker::Permit,
    metrics::{ConnectionLimitCells, PerWorker},
    runtime::Flag,
    worker::Worker,
};

/// A number of connections, counted over all workers.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: AtomicU64,
    open: Arc<AtomicU64>,
}

/// Envoy's connection limit filter: what is over the limit is closed, at once or after a while.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    pub(crate) gate: Gate,
    /// One that is off lets everything pass.
    pub(crate) enabled: Flag,
    /// Keeps a client that tries again at once from trying too often.
    pub(crate) delay: Option<Duration>,
    pub(crate) stats: Arc<PerWorker<ConnectionLimitCells>>,
}

/// A connection that was let in, until it is dropped.
pub(crate) struct Entered {
    stats: Arc<PerWorker<ConnectionLimitCells>>,
    worker: usize,
    _permit: Permit,
}

/// Lets a connection in through all limits; `None` if one of them is reached.
pub(super) async fn enter(limits: &[Arc<ConnectionLimit>], worker: &Worker) -> Option<Vec<Entered>> {
    let mut entered = Vec::new();
    let runtime = &worker.shared.runtime;
    let worker = worker.index;
    for limit in limits.iter().filter(|limit| limit.enabled.of(runtime)) {
        let Some(permit) = limit.gate.enter() else {
            limit.stats.at(worker).limited.add(1);
            drop(entered);
            if let Some(delay) = limit.delay {
                tokio::time::sleep(delay).await;
            }
            return None;
        };
        limit.stats.at(worker).opened.add(1);
        entered.push(Entered { stats: Arc::clone(&limit.stats), worker, _permit: permit });
    }
    Some(entered)
}

// === impl Gate ===

impl Gate {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), open: Arc::default() }
    }

    /// Changes the limit; those who are in stay in.
    pub(crate) fn limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Lets one more in, if the limit is not reached.
    pub(crate) fn enter(&self) -> Option<Permit> {
        Permit::take(&self.open, self.limit.load(Ordering::Relaxed))
    }
}

// === impl Entered ===

impl Drop for Entered {
    fn drop(&mut self) {
        self.stats.at(self.worker).closed.add(1);
    }
}
