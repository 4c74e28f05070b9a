//! What waits for something else before it serves, and for how long.
//!
//! As in Envoy: what was not delivered within its `initial_fetch_timeout` is done without. The listener then answers 404
//! where it has no route, and fails handshakes for which it has no certificate, until the rest comes.

use std::sync::Arc;

use tokio::time::Instant;
use weft_xds::ResourceType;

use super::State;
use crate::{cluster::Discovery, config::source::Patience, listener::ListenerSlot};

/// Since when something waits, and how long it does.
#[derive(Debug)]
pub(super) struct Warming {
    since: Instant,
    patience: Patience,
    /// What is missing is done without.
    pub(super) over: bool,
}

// === impl Warming ===

impl Warming {
    pub(super) fn new(patience: Patience) -> Self {
        Self { since: Instant::now(), patience, over: false }
    }

    /// Whether the wait ends now.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        let ends = !self.over && self.patience.is_over(now.saturating_duration_since(self.since));
        self.over |= ends;
        ends
    }
}

// === impl State ===

impl State {
    /// Puts in place the listeners whose route tables and secrets are there, or were waited for long enough.
    pub(super) fn settle(&mut self) {
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
        let scopes = self.heard.contains(&ResourceType::ScopedRouteConfiguration)
            && self.scope_routes().iter().all(routed);
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
            if !warm && !entry.warming.over {
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

    /// Does without what was waited for long enough.
    pub(crate) fn stop_waiting(&mut self) {
        let now = Instant::now();
        let mut ended = 0;
        if self.runtime_layers.stop_waiting(now) {
            tracing::warn!("runtime values did not come in time");
            ended += 1;
        }
        for (name, entry) in self.listeners.iter_mut().filter(|(_, entry)| entry.pending.is_some()) {
            if entry.warming.ends(now) {
                tracing::warn!(
                    listener = name,
                    "routes, secrets or filters did not come in time, the listener starts without"
                );
                ended += 1;
            }
        }
        for (name, entry) in &mut self.clusters {
            let missing = matches!(entry.cluster.discovery, Discovery::Eds { .. })
                && !entry.cluster.endpoints.load().known;
            if missing && entry.warming.ends(now) {
                tracing::warn!(cluster = name, "endpoints did not come in time");
                ended += 1;
            }
        }
        self.updates.fetch_timeouts += ended;
        if ended > 0 {
            self.settle();
        }
    }

    /// Whether everything that was configured serves: listeners have their route tables, clusters their endpoints. What
    /// was waited for long enough does not count.
    pub(crate) fn is_settled(&self) -> bool {
        self.listeners.values().all(|entry| entry.pending.is_none())
            && self.clusters.values().all(|entry| {
                let known = !matches!(entry.cluster.discovery, Discovery::Eds { .. })
                    || entry.cluster.endpoints.load().known;
                let ready = entry.cluster.tls.as_ref().is_none_or(|tls| tls.is_ready());
                known && ready || entry.warming.patience.is_over(entry.warming.since.elapsed())
            })
    }
}
