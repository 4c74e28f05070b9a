//! Listeners: accept, find out what the connection is, hand it to a filter chain.

pub(crate) mod accept;
mod connection;
pub(crate) mod detect;
pub(crate) mod filter;
pub(crate) mod hello;
pub(crate) mod limit;
pub(crate) mod matching;
pub(crate) mod on_demand;
mod original_dst;
pub(crate) mod proxy_protocol;
mod secure;
pub(crate) mod socket;
pub(crate) mod tls_inspector;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{
    filter::rbac::NetworkRbac,
    http::manager::HttpManager,
    listener::{
        filter::ListenerFilter,
        limit::{ConnectionLimit, Gate},
        matching::ChainMatch,
        on_demand::OnDemandSettings,
    },
    metrics::{ListenerCells, PerWorker},
    tcp::TcpProxy,
    tls::ServerTls,
    worker::drain::Drain,
};

/// One version of a compiled listener.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: String,
    /// Whether it is for traffic towards the workload, as the configuration says.
    pub(crate) inbound: bool,
    pub(crate) address: SocketAddr,
    pub(crate) bind_to_port: bool,
    /// Hand connections to the listener at their original destination, if there is one.
    pub(crate) use_original_dst: bool,
    /// Ask for the listener there if it is not known.
    pub(crate) on_demand: Option<OnDemandSettings>,
    /// What looks at connections before their chain is chosen, in order.
    pub(crate) filters: Vec<ListenerFilter>,
    /// How many connections it may have.
    pub(crate) gate: Arc<Gate>,
    /// How many the process may have, unless the listener is exempt.
    pub(crate) global_gate: Option<Arc<Gate>>,
    /// For all filters together.
    pub(crate) filters_timeout: Option<Duration>,
    /// After the timeout go on with what is known, instead of closing.
    pub(crate) continue_on_timeout: bool,
    pub(crate) backlog: u32,
    pub(crate) reuse_port: bool,
    pub(crate) chains: Vec<FilterChain>,
    pub(crate) default_chain: Option<FilterChain>,
    pub(crate) stats: Arc<PerWorker<ListenerCells>>,
    /// Begins when this version is replaced or removed, or told to drain: its connections end in order.
    pub(crate) drain: Arc<Drain>,
}

/// A chain and when it applies.
#[derive(Debug)]
pub(crate) struct FilterChain {
    pub(crate) matches: ChainMatch,
    /// Each of them must let a connection in.
    pub(crate) limits: Vec<Arc<ConnectionLimit>>,
    /// The same; asked once it is known who the client is.
    pub(crate) rbac: Vec<NetworkRbac>,
    /// What protects its connections, if anything.
    pub(crate) tls: Option<Arc<ServerTls>>,
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

// === impl Listener ===

impl Listener {
    /// Whether the secrets that it needs are there.
    pub(crate) fn is_warm(&self) -> bool {
        self.chains
            .iter()
            .chain(&self.default_chain)
            .all(|chain| chain.tls.as_ref().is_none_or(|tls| tls.is_ready()))
    }
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
        self.current.swap(listener).drain.begin();
    }
}

// === impl Bound ===

impl Bound {
    pub(crate) fn take_socket(&self, worker: usize) -> Option<std::net::TcpListener> {
        self.sockets.get(worker)?.lock().take()
    }

    /// Whether every worker has its socket.
    pub(crate) fn is_taken(&self) -> bool {
        self.sockets.iter().all(|socket| socket.lock().is_none())
    }
}
