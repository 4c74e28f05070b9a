//! A worker's connections to upstreams.
//!
//! Idle HTTP/1 connections are kept per endpoint and used last in, first out, so that surplus ones grow old and are
//! closed. HTTP/2 connections are shared by as many requests as they may have. Nothing here is shared between workers.

mod connection;
mod h2;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Weak},
};

use tokio::sync::Notify;

pub(crate) use connection::Connection;
pub(crate) use h2::H2Lease;

use crate::{
    balance::Turns,
    cluster::{
        Cluster,
        breaker::{Breaker, Permit, Priority},
        endpoint::Endpoint,
    },
    http::io::IoError,
    proxy_protocol::Addresses,
    tls::Spoken,
    worker::timer::{CoarseClock, Deadline, Timer},
};

/// Destinations that a worker remembers for a cluster without a list of endpoints.
const MAX_ORIGINAL: usize = 4096;

/// All pools of a worker.
pub(crate) struct Pools {
    clock: CoarseClock,
    #[expect(
        clippy::vec_box,
        reason = "a connection is moved in and out with every request; a pointer moves cheaply"
    )]
    idle: RefCell<ById<Vec<Box<Connection>>>>,
    h2: RefCell<ById<Rc<h2::Shared>>>,
    clusters: RefCell<ById<Rc<ClusterLocal>>>,
}

/// What a worker keeps for a cluster.
#[derive(Debug)]
pub(crate) struct ClusterLocal {
    cluster: Weak<Cluster>,
    /// Positions of the round robins.
    pub(crate) turns: Turns,
    /// Connections that this worker has open.
    open: Cell<usize>,
    /// Told when a connection becomes free or closes.
    freed: Notify,
    /// Endpoints made up from where clients wanted to go.
    original: RefCell<HashMap<SocketAddr, Arc<Endpoint>>>,
}

/// For what a connection is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) priority: Priority,
    pub(crate) cluster: &'a Arc<Cluster>,
    pub(crate) local: &'a Rc<ClusterLocal>,
    pub(crate) endpoint: &'a Arc<Endpoint>,
    pub(crate) worker: usize,
    pub(crate) timer: &'a Timer,
    /// Between whom the client's connection is. Said to endpoints whose cluster asks for it; a connection on which it was
    /// said serves no other pair.
    pub(crate) client: Addresses,
    /// A connection failed or refused this before: another one, if there can be one.
    pub(crate) fresh: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum AcquireError {
    /// A circuit breaker is open.
    Overflow,
    Connect,
    Timeout,
}

type ById<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

/// Ids are unique and dense already.
#[derive(Default)]
struct IdHasher(u64);

// === impl Pools ===

impl Pools {
    /// Empty pools; idle connections age by `clock`.
    pub(crate) fn new(clock: CoarseClock) -> Self {
        Self { clock, idle: RefCell::default(), h2: RefCell::default(), clusters: RefCell::default() }
    }

    /// This worker's state for a cluster.
    pub(crate) fn local(&self, cluster: &Arc<Cluster>) -> Rc<ClusterLocal> {
        let mut clusters = self.clusters.borrow_mut();
        Rc::clone(clusters.entry(cluster.id).or_insert_with(|| {
            Rc::new(ClusterLocal {
                cluster: Arc::downgrade(cluster),
                turns: Turns::starting_at(rand::random::<u32>() as usize),
                open: Cell::new(0),
                freed: Notify::new(),
                original: RefCell::default(),
            })
        }))
    }

    /// A connection for one HTTP/1 request, and whether it was used before.
    pub(crate) async fn acquire(&self, wanted: &Wanted<'_>) -> Result<(Box<Connection>, bool), AcquireError> {
        let Wanted { cluster, local, endpoint, worker, timer, .. } = *wanted;
        let said = wanted.said();
        if !wanted.fresh
            && let Some(connection) = self.take_idle(endpoint.id, said)
        {
            return Ok((connection, true));
        }
        let breaker = wanted.breaker();
        let mut permit = Permit::take(&breaker.connections, breaker.limits.connections);
        if permit.is_none() && local.open.get() == 0 {
            // As Envoy: every worker may have one, or the connections of the others would starve it.
            permit = Some(Permit::force(&breaker.connections));
        }
        if permit.is_none() {
            let cells = cluster.stats.at(worker);
            cells.cx_overflow.add(1);
            let Some(_pending) = Permit::take(&breaker.pending, breaker.limits.pending) else {
                cells.rq_pending_overflow.add(1);
                return Err(AcquireError::Overflow);
            };
            timer.arm(Deadline::Upstream, Some(cluster.connect_timeout));
            loop {
                timer
                    .limit(Deadline::Upstream, local.freed.notified())
                    .await
                    .map_err(|_| AcquireError::Timeout)?;
                if let Some(connection) = self.take_any_idle(cluster, endpoint, said) {
                    timer.disarm(Deadline::Upstream);
                    return Ok((connection, true));
                }
                permit = Permit::take(&breaker.connections, breaker.limits.connections);
                if permit.is_some() {
                    break;
                }
            }
        }
        let permit = permit.ok_or(AcquireError::Overflow)?;
        let connection = Connection::open(wanted, permit, Spoken::Http1).await?;
        cluster.stats.at(worker).cx_http1_total.add(1);
        Ok((Box::new(connection), false))
    }

    /// Takes back a connection that is between messages.
    pub(crate) fn release(&self, cluster: &Cluster, mut connection: Box<Connection>) {
        let worn = cluster.max_requests_per_connection.is_some_and(|limit| connection.requests >= limit);
        if worn || connection.endpoint().is_gone() {
            return;
        }
        connection.rest(cluster.idle_timeout, self.clock.millis());
        let local = Rc::clone(connection.local());
        self.idle.borrow_mut().entry(connection.endpoint().id).or_default().push(connection);
        local.freed.notify_one();
    }

    /// An HTTP/2 connection for one request.
    pub(crate) async fn acquire_h2(&self, wanted: &Wanted<'_>) -> Result<H2Lease, AcquireError> {
        let shared = Rc::clone(self.h2.borrow_mut().entry(wanted.endpoint.id).or_default());
        shared.lease(wanted).await
    }

    /// The endpoint that stands for an address in a cluster without a list.
    pub(crate) fn original(&self, local: &ClusterLocal, address: SocketAddr) -> Arc<Endpoint> {
        let mut known = local.original.borrow_mut();
        if known.len() >= MAX_ORIGINAL && !known.contains_key(&address) {
            // What is in use is held elsewhere too.
            known.retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
            if known.len() >= MAX_ORIGINAL {
                known.clear();
            }
        }
        Arc::clone(known.entry(address).or_insert_with(|| Arc::new(Endpoint::new(address, String::new()))))
    }

    /// Closes what is not worth keeping. To be called about once a second.
    pub(crate) fn sweep(&self) {
        let now = self.clock.millis();
        let mut closed = Vec::new();
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain_mut(|connection| {
                // Busy connections are elsewhere; what is here may wait long for its next request.
                connection.drop_buffers();
                !connection.endpoint().is_gone() && !connection.is_expired(now) && !connection.is_stale()
            });
            connections.shrink_to(4);
            !connections.is_empty()
        });
        self.h2.borrow_mut().retain(|_, shared| !shared.sweep());
        self.clusters.borrow_mut().retain(|_, local| {
            let keep = local.cluster.strong_count() > 0 || local.open.get() > 0;
            if !keep {
                closed.push(Rc::clone(local));
            }
            keep
        });
    }

    /// Closes all idle connections.
    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.h2.borrow_mut().clear();
    }

    /// The idle connection to an endpoint that was used last, of those on which `said` was said.
    fn take_idle(&self, endpoint: u64, said: Option<&Addresses>) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&endpoint)?;
        while let Some(index) = connections.iter().rposition(|connection| connection.said() == said) {
            let connection = connections.remove(index);
            if !connection.is_stale()
                && !connection.is_expired(self.clock.millis())
                && !connection.endpoint().is_gone()
            {
                return Some(connection);
            }
        }
        None
    }

    /// An idle connection to the endpoint, else to any other of the cluster.
    fn take_any_idle(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        said: Option<&Addresses>,
    ) -> Option<Box<Connection>> {
        self.take_idle(endpoint.id, said).or_else(|| {
            let set = cluster.endpoints.load();
            set.eligible
                .iter()
                .filter(|host| host.endpoint.is_fit())
                .find_map(|host| self.take_idle(host.endpoint.id, said))
        })
    }
}

// === impl Wanted ===

impl Wanted<'_> {
    /// The limits that the request is under.
    pub(super) fn breaker(&self) -> &Breaker {
        self.cluster.breaker_of(self.priority)
    }

    /// What the endpoint is told about the client, if anything.
    fn said(&self) -> Option<&Addresses> {
        self.cluster.proxy_protocol.map(|_| &self.client)
    }
}

// === impl ClusterLocal ===

impl ClusterLocal {
    /// Whether this worker has no connection open.
    fn is_empty(&self) -> bool {
        self.open.get() == 0
    }
}

// === impl IdHasher ===

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The table takes its tag from the high bits.
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl From<IoError> for AcquireError {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Timeout => Self::Timeout,
            IoError::Closed => Self::Connect,
        }
    }
}
