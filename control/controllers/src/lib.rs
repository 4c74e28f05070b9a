//! Reconcilers that drive the cluster to what its objects say.
//!
//! | controller | keeps |
//! |---|---|
//! | Deployment | one ReplicaSet per revision, pods moving to the newest |
//! | ReplicaSet | the number of its pods |
//! | Job | pods running until enough have succeeded |
//! | EndpointSlice | the list of pods that serve each Service |
//! | Namespace | its default account; its contents gone when it goes |
//! | garbage collector | nothing whose owners are all gone |
//! | node lifecycle | taints on nodes that fell silent, their pods moved |
//! | pod collector | no pods that nobody will finish |
//!
//! All share one set of caches, each fed by one watch. A controller takes keys from its queue, looks at the caches, and
//! does what is missing: it never learns *what* changed, so a change that is missed costs nothing but time. What is
//! decided is computed by pure functions (`plan` and the like); the modules around them read and write.
//!
//! Reasons, events and conditions are those of kube-controller-manager.
//!
//! Architecture Invariant: controllers reach the cluster only through [`kube::Client`], so they also run against a
//! Kubernetes cluster.

mod batch;
mod cache;
mod claim;
mod deployment;
mod endpointslice;
mod error;
mod events;
mod expectations;
mod gc;
mod informers;
mod job;
mod key;
mod kinds;
mod manager;
mod metrics;
mod namespace;
mod nodelifecycle;
mod podgc;
mod pods;
mod queue;
mod replicaset;
mod selectors;
#[cfg(test)]
mod testing;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How the controllers behave.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many keys each controller works on at a time. Default: 16.
    pub concurrency: usize,
    /// For how long a node may be silent. Default: 40 s, as in Kubernetes.
    pub node_monitor_grace: Duration,
    /// Least time between two nodes that are emptied. Default: 10 s, as in Kubernetes (0.1 per second).
    pub node_eviction_interval: Duration,
    /// How long pods that do not say stay on a node that is lost. Default: 300 s, as in Kubernetes.
    pub default_toleration: Duration,
    /// How many ended pods are kept. Default: 12,500, as in Kubernetes.
    pub terminated_pods: usize,
    /// Certificate of the cluster's authority in PEM, for the config map `kube-root-ca.crt` of every namespace. Default:
    /// none, and no config map.
    pub ca_pem: Option<String>,
    /// Where metrics are registered. Default: nowhere.
    pub registry: Option<prometheus::Registry>,
}

/// Why the controllers could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Metrics of the controllers' names are registered already.
    #[error("cannot register the controllers' metrics")]
    Metrics(#[source] prometheus::Error),
}

/// Runs all controllers until `shutdown` is cancelled.
///
/// Trouble with the API server is logged and retried with backoff; it never ends the controllers.
pub async fn run(client: kube::Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let metrics = metrics::Metrics::new(config.registry.as_ref()).map_err(Error::Metrics)?;
    manager::Manager::new(client, config, metrics).run(shutdown).await;
    Ok(())
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            concurrency: 16,
            node_monitor_grace: Duration::from_secs(40),
            node_eviction_interval: Duration::from_secs(10),
            default_toleration: Duration::from_secs(300),
            terminated_pods: 12_500,
            ca_pem: None,
            registry: None,
        }
    }
}
