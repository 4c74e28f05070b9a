//! Gives every connected proxy its snapshot, and a new one whenever something changes.
//!
//! # Guarantees
//! * Nothing is given before the mesh's state is known: proxies that still serve from their last good state keep it.
//! * A change is given at once. What changes while the proxies have not all answered to the last round coalesces into
//!   the next one ([`pace`](crate::pace)), so that a burst costs as many rounds as the proxies can take.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use weft_api::mesh::ProxyId;
use weft_discovery::model::{MeshState, PodId};
use weft_kit::error::chain;
use weft_xds::{
    ResourceType,
    pb::envoy::config::core::v3::Node,
    server::{ProxyObserver, SnapshotCache},
    session::Resources,
};

use crate::{
    catalog::{Catalog, Changes},
    pace::Pace,
    proxy::ProxyProfile,
    snapshot::Own,
    telemetry::Telemetry,
    warnings::{self, Warnings},
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
    /// Told of each round.
    pub(crate) given: watch::Sender<Given>,
}

/// What was given to the proxies last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// The state that it was built from; not synced before the first round.
    pub(crate) state: Arc<MeshState>,
    /// The endpoint sets, by their names.
    pub(crate) endpoints: Resources,
}

/// A connected proxy.
pub(crate) struct Proxy {
    profile: ProxyProfile,
    /// Built as of the catalog; `None` until the mesh's state is known.
    own: Option<Own>,
}

/// Gives the proxies of `cache` what the states of a mesh mean for them, until `shutdown`: the part of [`start`](crate::start)
/// that needs no cluster. What cannot be followed in annotations goes unsaid.
pub async fn publish(
    state: watch::Receiver<Arc<MeshState>>,
    cache: SnapshotCache,
    registry: &Registry,
    shutdown: CancellationToken,
) -> Result<(), prometheus::Error> {
    let telemetry = Arc::new(Telemetry::new(registry)?);
    let (told, changed) = mpsc::unbounded_channel();
    cache.observe(Arc::new(Observer { changed: told, telemetry: telemetry.clone() }));
    let (warnings, _reports) = warnings::channel();
    let (catalog, proxies, given) = Default::default();
    Publisher { state, changed, cache, telemetry, warnings, catalog, proxies, given }.run(shutdown).await;
    Ok(())
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
        let mut pace = Pace::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = pace.rest(&self.cache), if pace.is_resting() => {}
                changed = self.state.changed(), if !pace.is_resting() => {
                    // The source of states ends with the process.
                    if changed.is_err() {
                        return;
                    }
                    let state = self.state.borrow_and_update().clone();
                    self.state_changed(state);
                    pace.published();
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
        let ports = !changes.gone.is_empty() || !changes.new.is_empty();
        let concerned: Vec<String> = if first || ports {
            self.proxies.keys().cloned().collect()
        } else {
            changes.pods.iter().map(sidecar_id).filter(|id| self.proxies.contains_key(id)).collect()
        };
        let mut given = Vec::new();
        for id in concerned {
            if let Some(proxy) = self.proxies.get_mut(&id)
                && match first || proxy.profile.pod().is_some_and(|pod| changes.pods.contains(pod)) {
                    true => proxy.refresh(&self.catalog),
                    false => proxy.follow(&self.catalog, &changes),
                }
            {
                self.telemetry.publishing(&id, started);
                given.push((id, proxy.to_server()));
            }
        }
        let given_alone = given.len();
        if changes.services || changes.endpoints {
            self.telemetry.publishing_to_all(started);
        }
        self.cache.publish(self.catalog.resources().clone(), given);
        self.given.send_replace(Given {
            state: self.catalog.state().clone(),
            endpoints: self.catalog.resources().get(ResourceType::ClusterLoadAssignment).clone(),
        });
        let given = if changes.services || changes.endpoints { self.proxies.len() } else { given_alone };
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
            proxy.refresh(&self.catalog);
            self.telemetry.publishing(&node.id, Instant::now());
            self.cache.give(&node.id, proxy.to_server());
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
    /// Brings what belongs to the proxy alone in step; tells whether that changed anything.
    fn refresh(&mut self, catalog: &Catalog) -> bool {
        let own = Own::new(catalog, &self.profile);
        let differs = self.own.as_ref() != Some(&own);
        self.own = Some(own);
        differs
    }

    /// The same after a change of services only, which costs what changed.
    fn follow(&mut self, catalog: &Catalog, changes: &Changes) -> bool {
        match &mut self.own {
            Some(own) => own.follow(catalog, &self.profile, changes),
            None => self.refresh(catalog),
        }
    }

    fn to_server(&self) -> weft_xds::server::Own {
        self.own.as_ref().map(Own::to_server).unwrap_or_default()
    }
}

fn sidecar_id(pod: &PodId) -> String {
    ProxyId::Sidecar { namespace: pod.namespace.clone(), pod: pod.name.clone() }.to_string()
}

#[cfg(test)]
mod tests;
