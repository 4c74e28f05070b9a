//! What the making of rotations counts.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Cluster;
use crate::balance::{LocalZones, Localities, Rotation};

/// Counted off the data threads.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    recalculated_zones: AtomicU64,
    local_cluster_not_ok: AtomicU64,
    zone_cluster_too_small: AtomicU64,
    /// How many subsets there are.
    subsets: AtomicU64,
    subsets_created: AtomicU64,
    subsets_removed: AtomicU64,
}

// === impl Upkeep ===

impl Upkeep {
    /// Takes note of a rotation that was made.
    pub(super) fn record(
        &self,
        cluster: &Cluster,
        local: Option<&LocalZones>,
        rotation: &Rotation,
        before: &Rotation,
    ) {
        let add = |cell: &AtomicU64, count: usize| cell.fetch_add(count as u64, Ordering::Relaxed);
        if let (Localities::ByZone(settings), Some(local)) = (&cluster.balancing.localities, local) {
            add(&self.recalculated_zones, 1);
            let fit = cluster.endpoints.load().hosts.iter().filter(|host| host.is_fit()).count();
            if !local.is_usable() {
                add(&self.local_cluster_not_ok, 1);
            } else if (fit as u64) < settings.min_cluster_size {
                add(&self.zone_cluster_too_small, 1);
            }
        }
        if cluster.balancing.subsets.is_some() {
            let (subsets, created, removed) = rotation.subsets_since(before);
            self.subsets.store(subsets as u64, Ordering::Relaxed);
            add(&self.subsets_created, created);
            add(&self.subsets_removed, removed);
        }
    }

    /// The counters by the names that Envoy gives them.
    pub(crate) fn counters(&self) -> [(&'static str, u64); 5] {
        [
            ("envoy_cluster_lb_recalculate_zone_structures", &self.recalculated_zones),
            ("envoy_cluster_lb_local_cluster_not_ok", &self.local_cluster_not_ok),
            ("envoy_cluster_lb_zone_cluster_too_small", &self.zone_cluster_too_small),
            ("envoy_cluster_lb_subsets_created", &self.subsets_created),
            ("envoy_cluster_lb_subsets_removed", &self.subsets_removed),
        ]
        .map(|(name, cell)| (name, cell.load(Ordering::Relaxed)))
    }

    /// How many subsets there are.
    pub(crate) fn subsets(&self) -> u64 {
        self.subsets.load(Ordering::Relaxed)
    }
}
