//! Places pods on nodes.
//!
//! ```text
//!  watches ──► Cluster ──► Snapshot ──► schedule(snapshot, pod) ──► assume ──► bind (asynchronous)
//!     │           ▲                          │ no node                            │ failed
//!     └──► Queue ─┼── pods ─────────────────►└──► unschedulable                   └──► forget, back off
//!                 └── what changes wakes unschedulable pods
//! ```
//!
//! The decision ([`schedule`](schedule::schedule)) is a pure function of a [`Snapshot`](snapshot::Snapshot) and a pod:
//! filters say where the pod can run, scores where it runs best. Everything around it is driven by what watches report;
//! nothing is polled. Reasons, events and conditions are those of kube-scheduler.
//!
//! Architecture Invariant: the cycle from snapshot to decision does no I/O and reads no clock.
//!
//! Left out: preemption (a pod with a higher priority goes first in line, and evicts nobody), volumes, scheduler
//! extenders and several profiles in one scheduler.

pub mod pod;
pub mod resources;
pub mod schedule;
pub mod snapshot;
pub mod terms;

mod bind;
mod cluster;
mod driver;
mod filter;
mod metrics;
mod queue;
mod report;
mod score;
#[cfg(test)]
mod testing;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How the scheduler behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Only pods that ask for a scheduler of this name are placed. Default: `default-scheduler`, as in Kubernetes.
    pub scheduler_name: String,
    /// How long a pod waits after its first failed attempt; doubles with every further one. Default: 100 ms.
    /// (kube-scheduler waits a second; on a cluster that has just started, that second is all there is to wait for.)
    pub initial_backoff: Duration,
    /// How long a pod waits at most before it is considered again after a change. Default: 10 s, as in kube-scheduler.
    pub max_backoff: Duration,
    /// Where metrics are registered. Default: nowhere.
    pub registry: Option<prometheus::Registry>,
}

/// Why the scheduler could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Metrics of this scheduler's names are registered already.
    #[error("cannot register the scheduler's metrics")]
    Metrics(#[source] prometheus::Error),
}

/// Schedules pods until `shutdown` is cancelled.
///
/// Trouble with the API server is logged and retried with backoff; it never ends the scheduler.
pub async fn run(client: kube::Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let metrics = metrics::Metrics::new(config.registry.as_ref()).map_err(Error::Metrics)?;
    driver::Driver::new(client, config, metrics).run(shutdown).await;
    Ok(())
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".to_owned(),
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            registry: None,
        }
    }
}
