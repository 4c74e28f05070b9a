//! What waits for something else before it serves, and for how long.
//!
//! As in Envoy: what was not delivered within its `initial_fetch_timeout` is done without. The listener then answers 404
//! where it has no route, and fails handshakes for which it has no certificate, until the rest comes. A cluster then has
//! no endpoints.

use std::sync::Arc;

use tokio::time::Instant;
use weft_xds::ResourceType;

use super::{ListenerEntry, State, clusters::ClusterEntry};
use crate::{
    cluster::Discovery,
    config::source::{Patience, Source},
    listener::ListenerSlot,
};

/// Since when something waits, and how long it does.
#[derive(Debug)]
pub(super) struct Warming {
    since: Instant,
    patience: Patience,
    wait: Wait,
}

/// How far a wait is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// What refers to it waits as well.
    Shared,
    /// It waits for ever, as it is told to. Nothing else does.
    Alone,
    /// What is missing is done without.
    Over,
}

// === impl Warming ===

impl Warming {
    pub(super) fn new(patience: Patience) -> Self {
        Self { since: Instant::now(), patience, wait: Wait::Shared }
    }

    /// Whether the wait ends now.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let before = self.wait;
        if self.patience.is_over(waited) {
            self.wait = Wait::Over;
        } else if before == Wait::Shared && self.patience.bounded().is_over(waited) {
            self.wait = Wait::Alone;
        }
        before != Wait::Over && self.wait == Wait::Over
    }

    /// Ends the wait.
    pub(super) fn give_up(&mut self) {
        self.wait = Wait::Over;
    }

    /// Whether what is missing is done without, since the last look at the time.
    pub(super) fn has_ended(&self) -> bool {
        self.wait == Wait::Over
    }

    /// The same, with a look at the time.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended() || self.patience.is_over(self.since.elapsed())
    }

    /// Whether what refers to it waits as well, since the last look at the time.
    fn is_shared(&self) -> bool {
        self.wait == Wait::Shared
    }

    /// The same, with a look at the time.
    pub(super) fn holds_others(&self) -> bool {
        self.is_shared() && !self.patience.bounded().is_over(self.since.elapsed())
    }

    /// Whether it waits for ever and has done so for as long as others wait with it, with a look at the time.
    pub(super) fn is_alone(&self) -> bool {
        !self.holds_others() && !self.is_over()
    }
}

// === impl State ===

impl State {
    /// Puts in place the clusters that are warm, the route tables that lead to such, and the listeners whose route tables
    /// and secrets are there; all of them also if what is missing was waited for long enough.
    pub(super) fn settle(&mut self) {
        self.place_next_clusters();
        self.place_next_routes();
        self.place_listeners();
        self.let_clusters_go();
    }

    /// Whether anything waits to be put in place, so that it is to be looked at again when something came.
    pub(super) fn is_waiting(&self) -> bool {
        !self.next_clusters.is_empty()
            || !self.next_routes.is_empty()
            || self.listeners.values().any(ListenerEntry::is_pending)
    }

    /// Whether all that was accepted of a type is in effect. As in Envoy, this is not asked of clusters before all of them
    /// were warm for the first time: nothing is broken by what was never whole.
    pub(crate) fn in_effect(&self, type_: ResourceType) -> bool {
        match type_ {
            ResourceType::Cluster if self.started => {
                let awaited = |entry: &ClusterEntry| !entry.from_file && entry.is_awaited();
                !(self.leaving_is_awaited() || self.all_clusters().any(awaited))
            }
            ResourceType::RouteConfiguration => self.next_routes.is_empty(),
            _ => true,
        }
    }

    /// Whether the server told of clusters, and all of them were warm at once.
    pub(super) fn are_all_warm(&self) -> bool {
        self.heard.contains(&ResourceType::Cluster)
            && self.clusters.values().all(|entry| entry.from_file || !entry.is_awaited())
    }

    fn place_listeners(&mut self) {
        let mut changed = false;
        if self.runtime_layers.are_awaited() {
            return;
        }
        // As in Envoy, what was refused holds nothing up: the listener serves without until it is mended.
        let ledger = &self.ledger;
        let refused =
            |type_, name: &str| ledger.get(type_, name).is_some_and(|known| known.failure.is_some());
        let routed =
            |key: &String| self.routes.contains_key(key) || refused(ResourceType::RouteConfiguration, key);
        let scope_routes = self.scope_routes();
        let scopes =
            self.heard.contains(&ResourceType::ScopedRouteConfiguration) && scope_routes.iter().all(routed);
        let (clusters, route_clusters) = (&self.clusters, &self.route_clusters);
        let is_awaited = |name: &String| clusters.get(name).is_some_and(ClusterEntry::is_awaited);
        let leads_nowhere =
            |key: &String| route_clusters.get(key).is_some_and(|names| names.iter().any(is_awaited));
        let given = &self.names.extensions.given;
        let extended = |key: &String| given.contains_key(key) || refused(ResourceType::ExtensionConfig, key);
        let open = self.open_tables();
        // As in Envoy: the first word about virtual hosts is waited for, though it need not bring any.
        let hosts = self.heard.contains(&ResourceType::VirtualHost);
        for entry in self.listeners.values_mut() {
            let warm = entry.pending.as_ref().is_some_and(|listener| listener.is_warm())
                && entry.routes.iter().all(routed)
                && (scopes || !entry.scoped)
                && (hosts || !entry.routes.iter().any(|key| open.contains_key(key)))
                && entry.extensions.awaited.iter().all(extended);
            if !warm && !entry.warming.has_ended() {
                continue;
            }
            let led_nowhere = entry.clusters.iter().any(is_awaited)
                || entry.routes.iter().any(leads_nowhere)
                || (entry.scoped && scope_routes.iter().any(leads_nowhere));
            if led_nowhere {
                continue;
            }
            let Some(listener) = entry.pending.take() else { continue };
            tracing::info!(listener = %listener.name, address = %listener.address, "listener ready");
            match (&entry.slot, &entry.bound) {
                (Some(slot), _) => slot.replace(listener),
                (None, Some(bound)) => entry.slot = Some(Arc::clone(&bound.slot)),
                (None, None) => entry.slot = Some(Arc::new(ListenerSlot::new(listener))),
            }
            changed = true;
        }
        if changed {
            self.publish();
        }
    }

    /// Does without what the aggregated stream did not bring: nobody is there who could.
    pub(crate) fn do_without_endpoints_over_ads(&mut self) {
        for entry in self.clusters.values_mut() {
            let over_ads = matches!(&entry.cluster.discovery, Discovery::Eds { source: Source::Ads, .. });
            if over_ads && !entry.cluster.is_known() {
                entry.warming.give_up();
            }
        }
        self.settle();
    }

    /// Does without what was waited for long enough.
    pub(crate) fn stop_waiting(&mut self) {
        let now = Instant::now();
        let mut ended = 0;
        if self.runtime_layers.stop_waiting(now) {
            tracing::warn!("runtime values did not come in time");
            ended += 1;
        }
        let mut late = false;
        for (name, entry) in self.listeners.iter_mut().filter(|(_, entry)| entry.pending.is_some()) {
            let shared = entry.warming.is_shared();
            if entry.warming.ends(now) {
                tracing::warn!(
                    listener = name,
                    "routes, secrets or filters did not come in time, the listener starts without"
                );
                ended += 1;
            }
            late |= shared && !entry.warming.is_shared();
        }
        for (name, entry) in self.clusters.iter_mut().chain(&mut self.next_clusters) {
            if entry.is_ready() {
                continue;
            }
            let shared = entry.warming.is_shared();
            if entry.warming.ends(now) {
                tracing::warn!(cluster = name, "endpoints or secrets did not come in time");
                ended += 1;
            }
            late |= shared && !entry.warming.is_shared();
        }
        self.updates.fetch_timeouts += ended;
        if ended > 0 || late {
            self.settle();
            self.started |= self.are_all_warm();
            // What was held back is answered.
            self.wanted_changed.notify_one();
            self.servers_changed.notify_one();
        }
    }

    /// Whether everything that was configured serves: listeners have their route tables, clusters their endpoints. What
    /// was waited for long enough does not count.
    pub(crate) fn is_settled(&self) -> bool {
        self.listeners.values().all(|entry| entry.pending.is_none())
            && self.clusters.values().all(ClusterEntry::is_warm)
    }
}
