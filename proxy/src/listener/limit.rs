//! How many connections may be open at a time.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use crate::{
    cluster::breaker::Permit,
    metrics::{ConnectionLimitCells, PerWorker},
};

/// A number of connections, counted over all workers.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: u64,
    open: Arc<AtomicU64>,
}

/// The limits that hold for the life of the process; what is over them is closed when it is accepted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Gates {
    /// For all listeners together, but those that are exempt.
    pub(crate) global: Option<Arc<Gate>>,
    /// By the listener's name.
    pub(crate) listeners: HashMap<String, Arc<Gate>>,
}

/// Envoy's connection limit filter: what is over the limit is closed, at once or after a while.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    pub(crate) gate: Gate,
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
pub(super) async fn enter(limits: &[Arc<ConnectionLimit>], worker: usize) -> Option<Vec<Entered>> {
    let mut entered = Vec::new();
    for limit in limits {
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
        Self { limit, open: Arc::default() }
    }

    /// Lets one more in, if the limit is not reached.
    pub(crate) fn enter(&self) -> Option<Permit> {
        Permit::take(&self.open, self.limit)
    }
}

// === impl Entered ===

impl Drop for Entered {
    fn drop(&mut self) {
        self.stats.at(self.worker).closed.add(1);
    }
}
