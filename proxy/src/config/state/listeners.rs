//! Listeners: what is in force, what waits to be, and the sockets of both.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
};

use weft_xds::pb::envoy::config::listener::v3::Listener as ProtoListener;

use super::{State, warming::Warming};
use crate::{
    config::{ConfigError, Path, extensions::Asked, listener},
    listener::{Bound, Listener, ListenerSlot},
};

/// A listener with what it was made from.
pub(crate) struct ListenerEntry {
    pub(crate) message: ProtoListener,
    pub(crate) from_file: bool,
    /// In force; `None` until it was first put in place.
    pub(crate) slot: Option<Arc<ListenerSlot>>,
    pub(crate) bound: Option<Arc<Bound>>,
    /// Compiled, and waiting for route tables.
    pub(super) pending: Option<Arc<Listener>>,
    pub(super) warming: Warming,
    pub(super) routes: BTreeSet<String>,
    pub(super) extensions: Asked,
    /// Whether it has a route table for each scope.
    pub(super) scoped: bool,
    /// Named by the listener itself, not by its route tables.
    pub(super) clusters: BTreeSet<String>,
}

/// Which listeners are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those whose `traffic_direction` is INBOUND.
    Inbound,
}

// === impl ListenerEntry ===

impl ListenerEntry {
    /// Whether it waits to be put in place.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Lets the connections of a listener that is gone end in order.
    fn retire(self) {
        if let Some(slot) = self.slot {
            slot.get().drain.begin();
        }
    }
}

// === impl State ===

impl State {
    /// Compiles and puts in place one listener, or lets it wait for its route tables.
    pub(crate) fn set_listener(
        &mut self,
        path: &Path,
        message: ProtoListener,
        from_file: bool,
    ) -> Result<(), ConfigError> {
        let key = match message.name.as_str() {
            // As in Envoy a static listener needs no name; its address is unique enough.
            "" => format!("{:?}", message.address),
            name => name.to_owned(),
        };
        let entry = self.listeners.get(&key);
        if let Some(entry) = entry {
            if entry.from_file && !from_file {
                return Err(path.field("name").error(format!("{key:?} is a static listener")));
            }
            if entry.message == message {
                return Ok(());
            }
        }
        self.names.asked_routes.clear();
        self.names.extensions.asked = Asked::default();
        self.names.scopes.asked = false;
        self.names.asked_clusters.clear();
        self.names.patience = self.names.secrets.take_patience();
        let compiled = Arc::new(listener::compile(path, &message, &self.shared, &mut self.names)?);
        let routes = std::mem::take(&mut self.names.asked_routes);
        let extensions = std::mem::take(&mut self.names.extensions.asked);
        let clusters = std::mem::take(&mut self.names.asked_clusters);
        let scoped = std::mem::take(&mut self.names.scopes.asked);
        let patience = std::mem::take(&mut self.names.patience).and(self.names.secrets.take_patience());
        let warming = Warming::new(patience);
        let previous =
            entry.and_then(|entry| entry.slot.as_ref().map(|slot| (Arc::clone(slot), entry.bound.clone())));
        // A listener that stays where it is keeps its sockets, and with them the connections that wait in them.
        let stays = previous.filter(|(slot, _)| {
            let current = slot.get();
            current.address == compiled.address
                && current.bind_to_port == compiled.bind_to_port
                && current.reuse_port == compiled.reuse_port
        });
        let (slot, bound) = match stays {
            Some((slot, bound)) => (Some(slot), bound),
            None if compiled.bind_to_port && !self.stopped => {
                // Bound before anything is changed: an address that is taken refuses the update.
                let slot = Arc::new(ListenerSlot::new(Arc::clone(&compiled)));
                let bound = Bound::open(&slot, self.shared.workers).map_err(|error| {
                    path.field("address").error(format!("cannot listen on {}: {error}", compiled.address))
                })?;
                (None, Some(Arc::new(bound)))
            }
            None => (None, None),
        };
        if let Some(old) = self.listeners.remove(&key)
            && slot.is_none()
        {
            old.retire();
        }
        self.listeners.insert(
            key,
            ListenerEntry {
                message,
                from_file,
                slot,
                bound,
                pending: Some(compiled),
                warming,
                routes,
                extensions,
                scoped,
                clusters,
            },
        );
        if scoped {
            self.place_scopes();
        }
        self.settle();
        Ok(())
    }

    /// The server has it no more.
    pub(super) fn remove_listener(&mut self, name: &str) {
        if self.listeners.get(name).is_some_and(|entry| !entry.from_file)
            && let Some(entry) = self.listeners.remove(name)
        {
            entry.retire();
            self.publish();
        }
    }

    /// Tells the workers which listeners there are.
    pub(super) fn publish(&self) {
        let mut by_address = HashMap::new();
        let mut bound = Vec::new();
        for entry in self.listeners.values() {
            let Some(slot) = &entry.slot else { continue };
            by_address.insert(slot.get().address, Arc::clone(slot));
            bound.extend(entry.bound.clone());
        }
        for (address, name) in self.on_demand.aliases() {
            if let Some(slot) = self.listeners.get(name).and_then(|entry| entry.slot.as_ref()) {
                by_address.entry(address).or_insert_with(|| Arc::clone(slot));
            }
        }
        self.shared.by_address.store(Arc::new(by_address));
        // Workers that drain have taken down their listeners for good.
        self.bindings.send_if_modified(|current| match current {
            Some(current) => {
                *current = Arc::new(bound);
                true
            }
            None => false,
        });
    }

    /// Tells the connections of these listeners to go.
    pub(crate) fn drain_listeners(&mut self, which: Which) {
        self.draining = true;
        if which == Which::All {
            self.shared.drain.begin();
        }
        for slot in self.listeners.values().filter_map(|entry| entry.slot.as_ref()) {
            let listener = slot.get();
            if which == Which::All || listener.inbound {
                listener.drain.begin();
            }
        }
    }

    /// Closes the listening sockets of these listeners; connections go on. What is returned is gone when the last
    /// connection ended, those included that waited in the sockets to be accepted.
    pub(crate) fn stop_listening(&mut self, which: Which) -> Vec<Weak<Bound>> {
        self.stopped |= which == Which::All;
        let mut closing = Vec::new();
        for entry in self.listeners.values_mut() {
            if which == Which::All || entry.slot.as_ref().is_some_and(|slot| slot.get().inbound) {
                closing.extend(entry.bound.take().as_ref().map(Arc::downgrade));
            }
        }
        let left: Vec<_> = self.listeners.values().filter_map(|entry| entry.bound.clone()).collect();
        self.bindings.send_modify(|current| {
            if let Some(current) = current {
                *current = Arc::new(left);
            }
        });
        closing
    }

    /// Whether the workers have taken every listening socket. One that is closed before resets whoever waits in it.
    pub(crate) fn is_listening_everywhere(&self) -> bool {
        self.listeners.values().filter_map(|entry| entry.bound.as_ref()).all(|bound| bound.is_taken())
    }

    /// Ends the workers.
    pub(crate) fn stop_workers(&self) {
        self.bindings.send_replace(None);
    }
}
