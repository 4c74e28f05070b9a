//! The local cluster: its endpoints are the proxies like this one, and where they are says how far traffic can be kept in
//! its zone.

use std::sync::Arc;

use tokio::sync::watch;

use super::{ClusterSlot, endpoint::Zone};
use crate::balance::LocalZones;

/// What the bootstrap says of it.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    pub(crate) name: String,
    /// Where this proxy is.
    zone: Zone,
    pub(crate) slot: Arc<ClusterSlot>,
    /// Told when its endpoints, or their health, change.
    changed: watch::Sender<()>,
}

// === impl LocalCluster ===

impl LocalCluster {
    pub(crate) fn new(name: String, zone: Zone) -> Self {
        Self { slot: Arc::new(ClusterSlot::empty(&name)), name, zone, changed: watch::Sender::default() }
    }

    /// Where proxies like this one are; `None` while that is not known.
    pub(crate) fn zones(&self, panic_threshold: f64) -> Option<LocalZones> {
        let cluster = self.slot.get()?;
        Some(LocalZones::new(self.zone.clone(), &cluster.endpoints.load(), panic_threshold))
    }

    pub(crate) fn tell(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}
