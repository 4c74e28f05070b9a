//! Data threads: each has its own runtime, sockets, connections and counters.

pub(crate) mod drain;
mod panics;
pub(crate) mod threads;
pub(crate) mod timer;
pub(crate) mod upkeep;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;

use self::{
    drain::{Drain, DrainPlan},
    timer::Timers,
    upkeep::Upkeeps,
};
use crate::{
    access_log::{Pending, writer::LogStats},
    balance::Random,
    cluster::local::LocalCluster,
    http::h2::Lanes,
    listener::{ListenerSlot, on_demand::Asks},
    metrics::Registry,
    overload::Overload,
    pool::Pools,
    route::demand::Demand,
    runtime::{Runtime, Share},
};

/// What all threads see. Read-only for workers, but for single cells.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) workers: usize,
    /// Of the whole process.
    pub(crate) drain: Arc<Drain>,
    pub(crate) drain_plan: DrainPlan,
    pub(crate) runtime: Runtime,
    /// Clusters that requests ask for.
    pub(crate) wanted_clusters: Demand,
    /// The name of the service that this proxy is beside.
    pub(crate) node_cluster: String,
    pub(crate) upkeeps: Upkeeps,
    /// Set by the operator: `/ready` and health checks of others fail.
    pub(crate) failing: AtomicBool,
    /// Listeners by address, for connections that are handed over by their original destination.
    pub(crate) by_address: ArcSwap<HashMap<SocketAddr, Arc<ListenerSlot>>>,
    /// For listeners that are not known yet.
    pub(crate) asks: Asks,
    /// Panics that data threads survived.
    pub(crate) caught_panics: Arc<AtomicU64>,
    pub(crate) log_stats: Arc<LogStats>,
    pub(crate) overload: Overload,
    /// Where proxies like this one are, if the bootstrap says.
    pub(crate) local: Option<Arc<LocalCluster>>,
}

/// One data thread's state. Never leaves its thread.
pub(crate) struct Worker {
    /// Position among the workers; the index of its cells.
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) timers: Timers,
    pub(crate) random: Random,
    pub(crate) pools: Pools,
    /// Tasks for requests that come over HTTP/2.
    pub(crate) lanes: Lanes,
    /// Lines of access logs that were not handed over yet.
    pub(crate) log_lines: Pending,
    /// What requests to mirrors take that are on their way.
    pub(crate) mirrored_bytes: Cell<usize>,
    date: RefCell<String>,
    connections: Cell<u64>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(workers: usize, drain_plan: DrainPlan) -> Self {
        Self {
            registry: Registry::new(workers),
            workers,
            drain: Arc::new(Drain::new(drain_plan)),
            drain_plan,
            runtime: Runtime::default(),
            wanted_clusters: Demand::default(),
            node_cluster: String::new(),
            upkeeps: Upkeeps::default(),
            failing: AtomicBool::new(false),
            by_address: ArcSwap::default(),
            asks: Asks::default(),
            caught_panics: Arc::default(),
            log_stats: Arc::default(),
            overload: Overload::default(),
            local: None,
        }
    }
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Self {
        let timers = Timers::default();
        let worker = Self {
            index,
            shared,
            pools: Pools::new(timers.clock()),
            lanes: Lanes::default(),
            timers,
            random: Random::new(rand::random()),
            log_lines: Pending::default(),
            mirrored_bytes: Cell::new(0),
            date: RefCell::default(),
            connections: Cell::new(0),
        };
        worker.update_date();
        worker
    }

    /// A number for another connection, unique in the process.
    pub(crate) fn connection_id(&self) -> u64 {
        let count = self.connections.get();
        self.connections.set(count + 1);
        // Each worker has every so many'th number.
        count * self.shared.workers as u64 + self.index as u64
    }

    /// Whether one of this share of requests was drawn.
    pub(crate) fn draws(&self, share: &Share) -> bool {
        self.random.chance(share.of(&self.shared.runtime))
    }

    /// The current time as an HTTP date; renewed once a second.
    pub(crate) fn with_date<T>(&self, use_it: impl FnOnce(&[u8]) -> T) -> T {
        use_it(self.date.borrow().as_bytes())
    }

    pub(crate) fn update_date(&self) {
        let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
        *self.date.borrow_mut() = text.unwrap_or_default();
    }

    /// A version 4 UUID as text. Unique, not unguessable: it names a request and guards nothing.
    pub(crate) fn random_uuid(&self) -> [u8; 36] {
        let random = (u128::from(self.random.next()) << 64) | u128::from(self.random.next());
        let id = uuid::Builder::from_random_bytes(random.to_ne_bytes()).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        id.hyphenated().encode_lower(&mut text);
        text
    }
}
