//! What runs for a cluster beside the traffic.

use std::sync::Arc;

use tokio::{runtime::Handle, task::AbortHandle};

use super::{Cluster, Discovery, dns, health, outlier};
use crate::balance::{self, Localities};

/// The tasks of one cluster; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Tasks(Vec<AbortHandle>);

impl Tasks {
    /// Starts discovery, health checks and upkeep of the rotation, as the cluster needs them.
    pub(crate) fn start(cluster: &Arc<Cluster>, runtime: &Handle) -> Self {
        let mut tasks = Vec::new();
        if let Discovery::Dns(config) = &cluster.discovery {
            tasks.push(runtime.spawn(dns::run(Arc::downgrade(cluster), config.clone())).abort_handle());
        }
        for check in &cluster.health_checks {
            tasks.push(runtime.spawn(health::run(Arc::downgrade(cluster), check.clone())).abort_handle());
        }
        let around = match (&cluster.balancing.localities, &cluster.local) {
            (Localities::ByZone(_), Some(local)) => Some(local.subscribe()),
            _ => None,
        };
        // Everything else that changes a rotation makes it anew itself.
        if cluster.outlier.is_some() || cluster.balancing.moves() || around.is_some() {
            let upkeep = balance::keep_current(Arc::downgrade(cluster), around);
            tasks.push(runtime.spawn(upkeep).abort_handle());
        }
        if cluster.outlier.is_some() {
            tasks.push(runtime.spawn(outlier::interval::run(Arc::downgrade(cluster))).abort_handle());
        }
        Self(tasks)
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}
