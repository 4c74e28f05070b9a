//! Data threads: each has its own runtime, sockets, connections and counters.

pub(crate) mod threads;
pub(crate) mod timer;

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;

use crate::{balance::Random, listener::ListenerSlot, metrics::Registry, pool::Pools, worker::timer::Timers};

/// What all threads see. Read-only for workers, but for single cells.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) registry: Registry,
    pub(crate) workers: usize,
    /// Set when the whole process drains.
    pub(crate) draining: Arc<AtomicBool>,
    /// Set by the operator: `/ready` and health checks of others fail.
    pub(crate) failing: AtomicBool,
    /// Listeners by address, for connections that are handed over by their original destination.
    pub(crate) by_address: ArcSwap<HashMap<SocketAddr, Arc<ListenerSlot>>>,
    /// Lines that an access log had to drop.
    pub(crate) log_lines_dropped: Arc<AtomicU64>,
}

/// One data thread's state. Never leaves its thread.
pub(crate) struct Worker {
    /// Position among the workers; the index of its cells.
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) timers: Timers,
    pub(crate) random: Random,
    pub(crate) pools: Pools,
    date: RefCell<String>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            registry: Registry::new(workers),
            workers,
            draining: Arc::default(),
            failing: AtomicBool::new(false),
            by_address: ArcSwap::default(),
            log_lines_dropped: Arc::default(),
        }
    }
}

// === impl Worker ===

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Self {
        let worker = Self {
            index,
            shared,
            timers: Timers::default(),
            random: Random::new(rand::random()),
            pools: Pools::default(),
            date: RefCell::default(),
        };
        worker.update_date();
        worker
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
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&self.random.next().to_ne_bytes());
        bytes[8..].copy_from_slice(&self.random.next().to_ne_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mut text = [b'-'; 36];
        let mut at = 0;
        for byte in bytes {
            if matches!(at, 8 | 13 | 18 | 23) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        text
    }
}
