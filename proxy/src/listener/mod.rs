//! Listeners: accept, find out what the connection is, hand it to a filter chain.

pub(crate) mod accept;
pub(crate) mod detect;
pub(crate) mod matching;
pub(crate) mod original_dst;
pub(crate) mod socket;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{
    http::manager::HttpManager,
    listener::matching::ChainMatch,
    metrics::{ListenerCells, PerWorker},
    tcp::TcpProxy,
};

/// One version of a compiled listener.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) bind_to_port: bool,
    /// Hand connections to the listener at their original destination, if there is one.
    pub(crate) use_original_dst: bool,
    /// Whether the original destination is asked for.
    pub(crate) original_dst: bool,
    /// Whether the first bytes are looked at for HTTP.
    pub(crate) http_inspector: bool,
    pub(crate) detect_timeout: Option<Duration>,
    /// After the timeout go on as if nothing was detected, instead of closing.
    pub(crate) continue_on_timeout: bool,
    pub(crate) backlog: u32,
    pub(crate) reuse_port: bool,
    pub(crate) chains: Vec<FilterChain>,
    pub(crate) default_chain: Option<Handler>,
    pub(crate) stats: Arc<PerWorker<ListenerCells>>,
    /// Set when this version is replaced or removed: its connections end in order.
    pub(crate) draining: Arc<AtomicBool>,
}

/// A chain and when it applies.
#[derive(Debug)]
pub(crate) struct FilterChain {
    pub(crate) matches: ChainMatch,
    pub(crate) handler: Handler,
}

/// What handles a connection.
#[derive(Debug, Clone)]
pub(crate) enum Handler {
    Http(Arc<HttpManager>),
    Tcp(Arc<TcpProxy>),
}

/// The place of a listener by name; updates change what is in it.
#[derive(Debug)]
pub(crate) struct ListenerSlot {
    current: ArcSwap<Listener>,
}

/// A listener with sockets, one for each worker.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Unique in the process: a listener that moves to another address is another one.
    pub(crate) id: u64,
    /// Where it really listens: port 0 is resolved.
    pub(crate) address: SocketAddr,
    pub(crate) slot: Arc<ListenerSlot>,
    /// Taken by the workers, each its own.
    sockets: Vec<Mutex<Option<std::net::TcpListener>>>,
}

// === impl ListenerSlot ===

impl ListenerSlot {
    pub(crate) fn new(listener: Arc<Listener>) -> Self {
        Self { current: ArcSwap::new(listener) }
    }

    pub(crate) fn get(&self) -> Arc<Listener> {
        self.current.load_full()
    }

    /// Puts another version in place; connections of the one before drain.
    pub(crate) fn replace(&self, listener: Arc<Listener>) {
        self.current.swap(listener).draining.store(true, Ordering::Relaxed);
    }
}

// === impl Bound ===

impl Bound {
    pub(crate) fn take_socket(&self, worker: usize) -> Option<std::net::TcpListener> {
        self.sockets.get(worker)?.lock().take()
    }
}
