//! Listeners that are asked for when the first connection to their address comes, with the clusters that they name.
//!
//! A server that offers this keeps them out of what "everything" means: a listener has its address as its name or as an
//! alias, is given to who asks for that, and is taken back when nobody asks any more. So a proxy knows the services that
//! it uses and no others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{ListenerEntry, State};
use crate::{cluster::Discovery, listener::on_demand::Ask};

/// All that was asked for and not dropped since.
#[derive(Debug, Default)]
pub(super) struct OnDemand {
    asked: BTreeMap<SocketAddr, Asked>,
}

/// What is known of an address that was asked for.
#[derive(Debug)]
struct Asked {
    /// Connections that wait for an answer; those that do not wait any more are closed.
    waiting: Vec<oneshot::Sender<()>>,
    /// The name of the listener, if the server gave it one that is not the address.
    listener: Option<String>,
    /// The server said that there is nothing at it.
    absent: bool,
    /// How many connections it had in all, and since when that is so and none is open.
    connections: u64,
    idle_since: Instant,
    /// For how long that may be.
    idle_timeout: Duration,
}

/// Hands what data threads ask for to the state, until the process ends.
pub(crate) async fn run(state: Arc<Mutex<State>>, mut asks: mpsc::UnboundedReceiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        state.lock().ask(ask);
    }
}

// === impl OnDemand ===

impl OnDemand {
    /// The server has no listener of this name.
    pub(super) fn absent(&mut self, name: &str) {
        let asked = name.parse().ok().and_then(|address| self.asked.get_mut(&address));
        if let Some(asked) = asked {
            asked.absent = true;
            asked.listener = None;
        }
    }

    /// The server has the listener that was asked for as `alias`, under this name.
    pub(super) fn found(&mut self, alias: &str, name: &str) {
        let asked = alias.parse().ok().and_then(|address| self.asked.get_mut(&address));
        if let Some(asked) = asked {
            asked.absent = false;
            asked.listener = Some(name.to_owned());
        }
    }

    /// Addresses whose listeners have a name that is not the address, with that.
    pub(super) fn aliases(&self) -> impl Iterator<Item = (SocketAddr, &String)> {
        self.asked.iter().filter_map(|(address, asked)| Some((*address, asked.listener.as_ref()?)))
    }
}

// === impl State ===

impl State {
    pub(super) fn ask(&mut self, ask: Ask) {
        let Ask { address, answer, idle_timeout } = ask;
        let new = !self.on_demand.asked.contains_key(&address);
        let asked = self.on_demand.asked.entry(address).or_insert_with(|| Asked {
            waiting: Vec::new(),
            listener: None,
            absent: false,
            connections: 0,
            idle_since: Instant::now(),
            idle_timeout,
        });
        asked.idle_since = Instant::now();
        asked.waiting.push(answer);
        if new {
            tracing::debug!(%address, "asking for a listener");
            self.wanted_changed.notify_one();
        }
        self.answer_asks();
    }

    /// Lets connections go on whose listener is complete, or known not to exist.
    pub(super) fn answer_asks(&mut self) {
        let mut on_demand = std::mem::take(&mut self.on_demand);
        for (address, asked) in on_demand.asked.iter_mut().filter(|(_, asked)| !asked.waiting.is_empty()) {
            let complete = self.listener_at(address, asked).is_some_and(|entry| self.is_complete(entry));
            asked.absent &= !complete;
            if complete || asked.absent {
                for answer in asked.waiting.drain(..) {
                    // Who does not wait any more needs no answer.
                    let _ = answer.send(());
                }
            }
        }
        self.on_demand = on_demand;
    }

    /// Drops what had no connection for its time.
    pub(crate) fn drop_idle(&mut self) {
        let now = Instant::now();
        let mut on_demand = std::mem::take(&mut self.on_demand);
        let before = on_demand.asked.len();
        on_demand.asked.retain(|address, asked| {
            asked.waiting.retain(|answer| !answer.is_closed());
            let (total, open) = self.listener_at(address, asked).map(connections).unwrap_or_default();
            if total != asked.connections || open > 0 || !asked.waiting.is_empty() {
                asked.connections = total;
                asked.idle_since = now;
            }
            now.saturating_duration_since(asked.idle_since) < asked.idle_timeout
        });
        let dropped = before - on_demand.asked.len();
        self.on_demand = on_demand;
        if dropped > 0 {
            self.publish();
            tracing::debug!(dropped, "listeners were idle and are not asked for any more");
            self.wanted_changed.notify_one();
        }
    }

    /// Names of the listeners that are asked for, and of the clusters that those name.
    pub(super) fn wanted_on_demand(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let asked = self.on_demand.asked.iter();
        let entries = asked.clone().filter_map(|(address, asked)| self.listener_at(address, asked));
        let next = |entry: &ListenerEntry| {
            let routes = entry.routes.iter().filter_map(|key| self.next_routes.get(key));
            routes.flat_map(|next| &next.clusters).collect::<Vec<_>>()
        };
        let clusters = entries.flat_map(|entry| self.clusters_of(entry).chain(next(entry)));
        let is_dynamic = |name: &&String| self.clusters.get(*name).is_none_or(|entry| !entry.from_file);
        (
            asked.map(|(address, _)| address.to_string()).collect(),
            clusters.filter(is_dynamic).cloned().collect(),
        )
    }

    fn listener_at(&self, address: &SocketAddr, asked: &Asked) -> Option<&ListenerEntry> {
        match &asked.listener {
            Some(name) => self.listeners.get(name),
            None => self.listeners.get(&address.to_string()),
        }
    }

    pub(super) fn clusters_of<'s>(&'s self, entry: &'s ListenerEntry) -> impl Iterator<Item = &'s String> {
        let of_routes = entry.routes.iter().filter_map(|key| self.route_clusters.get(key)).flatten();
        entry.clusters.iter().chain(of_routes)
    }

    /// Whether a connection can be served: nothing that the listener names is still on its way.
    fn is_complete(&self, entry: &ListenerEntry) -> bool {
        let is_known = |name: &String| {
            self.clusters.get(name).is_some_and(|entry| {
                let eds = matches!(entry.cluster.discovery, Discovery::Eds { .. });
                !eds || entry.cluster.endpoints.load().known
            })
        };
        entry.slot.is_some() && entry.pending.is_none() && self.clusters_of(entry).all(is_known)
    }
}

/// How many connections a listener had in all, and has now.
fn connections(entry: &ListenerEntry) -> (u64, u64) {
    let Some(slot) = &entry.slot else { return (0, 0) };
    let stats = &slot.get().stats;
    let total = stats.sum(|cells| &cells.cx_total);
    (total, total.saturating_sub(stats.sum(|cells| &cells.cx_destroy)))
}
