//! Gives every connected proxy its snapshot, and a new one whenever something changes.
//!
//! # Guarantees
//! * Nothing is given before the mesh's state is known: proxies that still serve from their last good state keep it.
//! * A change is given at once. While snapshots are being made, further changes coalesce into the next round.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use weft_discovery::model::MeshState;
use weft_kit::error::chain;
use weft_xds::{
    ResourceType,
    pb::envoy::config::core::v3::Node,
    server::{ProxyObserver, SnapshotCache},
};

use crate::{
    catalog::{Catalog, Changes},
    proxy::ProxyProfile,
    snapshot::Own,
    telemetry::Telemetry,
    warnings::Warnings,
};

/// Tells the publisher which proxies came or went: only that, for the streams of one proxy end and begin in tasks of
/// their own, so what they tell may arrive in another order than it happened in.
pub(crate) struct Observer {
    pub(crate) changed: mpsc::UnboundedSender<String>,
    pub(crate) telemetry: Arc<Telemetry>,
}

/// Canonical is `proxies`: those that are connected and have a valid profile.
pub(crate) struct Publisher {
    pub(crate) state: watch::Receiver<Arc<MeshState>>,
    pub(crate) changed: mpsc::UnboundedReceiver<String>,
    pub(crate) cache: SnapshotCache,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) warnings: Warnings,
    pub(crate) catalog: Catalog,
    pub(crate) proxies: BTreeMap<String, Proxy>,
}

/// A connected proxy.
pub(crate) struct Proxy {
    profile: ProxyProfile,
    /// Built as of the catalog; `None` until the mesh's state is known.
    own: Option<Own>,
}

// === impl Observer ===

impl ProxyObserver for Observer {
    fn connected(&self, node: &Node) {
        // Nobody listens only when the process ends.
        let _ = self.changed.send(node.id.clone());
    }

    fn disconnected(&self, node: &Node) {
        let _ = self.changed.send(node.id.clone());
    }

    fn answered(&self, proxy_id: &str, _: ResourceType) {
        self.telemetry.answered(proxy_id, Instant::now());
    }
}

// === impl Publisher ===

impl Publisher {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.state.changed() => {
                    // The source of states ends with the process.
                    if changed.is_err() {
                        return;
                    }
                    let state = self.state.borrow_and_update().clone();
                    self.state_changed(state);
                }
                id = self.changed.recv() => match id {
                    Some(id) => self.proxy_changed(&id),
                    None => return,
                },
            }
        }
    }

    /// Looks at how the proxy is now.
    fn proxy_changed(&mut self, id: &str) {
        match self.cache.status(id).filter(|status| status.streams > 0) {
            Some(status) => self.connected(&status.node),
            None => self.disconnected(id),
        }
    }

    pub(crate) fn state_changed(&mut self, state: Arc<MeshState>) {
        if !state.is_synced() {
            return;
        }
        let started = Instant::now();
        let first = !self.catalog.state().is_synced();
        let changes = self.catalog.update(state);
        self.warnings.update(&changes.problems, self.catalog.state());
        let mut given = 0;
        for (id, proxy) in &mut self.proxies {
            if proxy.refresh(&self.catalog, &changes, first) {
                self.telemetry.publishing(id, started);
                self.cache.set(id, proxy.snapshot(&self.catalog));
                given += 1;
            }
        }
        self.telemetry.published(given, started.elapsed());
        debug!(version = self.catalog.state().version, proxies = given, "published a mesh state");
    }

    pub(crate) fn connected(&mut self, node: &Node) {
        let profile = match ProxyProfile::from_node(node) {
            Ok(profile) => profile,
            Err(error) => {
                warn!(proxy = node.id, error = chain(&error), "a proxy connected that gets no configuration");
                return;
            }
        };
        if self.proxies.get(&node.id).is_some_and(|known| known.profile == profile) {
            return;
        }
        info!(proxy = node.id, ?profile, "proxy connected");
        let mut proxy = Proxy { profile, own: None };
        if self.catalog.state().is_synced() {
            proxy.own = Some(Own::new(&self.catalog, &proxy.profile));
            self.telemetry.publishing(&node.id, Instant::now());
            self.cache.set(&node.id, proxy.snapshot(&self.catalog));
        }
        self.proxies.insert(node.id.clone(), proxy);
        self.count_proxies();
    }

    pub(crate) fn disconnected(&mut self, id: &str) {
        if self.proxies.remove(id).is_some() {
            info!(proxy = id, "proxy disconnected");
            self.cache.clear(id);
            self.telemetry.forget(id);
            self.count_proxies();
        }
    }

    fn count_proxies(&self) {
        let is_gateway = |proxy: &&Proxy| matches!(proxy.profile, ProxyProfile::Gateway { .. });
        let gateways = self.proxies.values().filter(is_gateway).count();
        self.telemetry.proxies(self.proxies.len() - gateways, gateways);
    }
}

// === impl Proxy ===

impl Proxy {
    /// Brings what belongs to the proxy alone in step; tells whether its snapshot may differ from the last.
    fn refresh(&mut self, catalog: &Catalog, changes: &Changes, first: bool) -> bool {
        let concerned = self.profile.pod().is_some_and(|pod| changes.pods.contains(pod));
        if first || changes.services || concerned || self.own.is_none() {
            let own = Own::new(catalog, &self.profile);
            let differs = self.own.as_ref() != Some(&own);
            self.own = Some(own);
            return differs || changes.services || changes.endpoints;
        }
        changes.endpoints
    }

    fn snapshot(&self, catalog: &Catalog) -> weft_xds::server::Snapshot {
        self.own.as_ref().map(|own| own.snapshot(catalog)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
