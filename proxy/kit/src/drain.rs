//! Waiting for the work in hand to finish.
//!
//! A [`DrainTrigger`] and any number of [`DrainWatch`]es form a channel. Whoever does work that must not be cut off
//! keeps a watch (or a clone) for as long as the work lasts; whoever ends the process calls [`DrainTrigger::drain`],
//! which tells every watch and returns when all of them are dropped.
//!
//! # Guarantees
//! * `drain` returns only when no watch is alive.
//! * A watch that is created from another after the drain began sees it at once.

use tokio::sync::{mpsc, watch};

/// Starts the drain; see the [module](self).
#[derive(Debug)]
pub struct DrainTrigger {
    signal: watch::Sender<bool>,
    /// Closed when the last watch, each of which holds a sender, is gone. Nothing is ever sent.
    all_done: mpsc::Receiver<()>,
}

/// Tells that a drain began, and holds it up for as long as it lives; see the [module](self).
#[derive(Debug, Clone)]
pub struct DrainWatch {
    signal: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

/// A trigger and its first watch.
pub fn channel() -> (DrainTrigger, DrainWatch) {
    let (signal_tx, signal_rx) = watch::channel(false);
    let (alive, all_done) = mpsc::channel(1);
    (DrainTrigger { signal: signal_tx, all_done }, DrainWatch { signal: signal_rx, _alive: alive })
}

// === impl DrainTrigger ===

impl DrainTrigger {
    /// Tells every watch, then waits until all of them are dropped.
    ///
    /// Cancel-safe in that the watches stay told; waiting itself cannot be resumed.
    pub async fn drain(mut self) {
        self.signal.send_replace(true);
        // Ends with `None` once every sender is gone.
        while self.all_done.recv().await.is_some() {}
    }
}

// === impl DrainWatch ===

impl DrainWatch {
    /// Resolves when the drain begins; at once if it has begun.
    pub async fn draining(&mut self) {
        // An error means that the trigger was dropped without draining: nobody waits, so there is nothing to hurry for.
        if self.signal.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        *self.signal.borrow()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_the_last_watch() {
        let (trigger, watch) = channel();
        let mut worker = watch.clone();
        drop(watch);
        let work = tokio::spawn(async move {
            worker.draining().await;
            assert!(worker.is_draining());
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let started = tokio::time::Instant::now();
        trigger.drain().await;
        assert_eq!(started.elapsed(), Duration::from_secs(5));
        work.await.expect("the worker saw the drain");
    }
}
