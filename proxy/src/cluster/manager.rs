//! What runs for a cluster beside the traffic.

use std::sync::Arc;

use tokio::{runtime::Handle, task::AbortHandle};

use super::{Cluster, Discovery, dns, health};

/// The tasks of one cluster; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Tasks(Vec<AbortHandle>);

impl Tasks {
    /// Starts discovery and health checks, as the cluster has them.
    pub(crate) fn start(cluster: &Arc<Cluster>, runtime: &Handle) -> Self {
        let mut tasks = Vec::new();
        if let Discovery::Dns(config) = &cluster.discovery {
            tasks.push(runtime.spawn(dns::run(Arc::downgrade(cluster), config.clone())).abort_handle());
        }
        for check in &cluster.health_checks {
            tasks.push(runtime.spawn(health::run(Arc::downgrade(cluster), check.clone())).abort_handle());
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
