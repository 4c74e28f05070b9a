//! The HTTP/2 connections that a worker has with an endpoint.
//!
//! A request goes on the first connection that has room, so that surplus ones run empty and are closed. A connection has
//! room for as many streams as its peer and the configuration allow; when all are full another one is opened, one at a
//! time, and what waits meanwhile shares its fate.
//!
//! # Guarantees
//! * A connection that says GOAWAY, or that has served as many requests as it may, gets no new ones and lives until its
//!   last one is done.
//! * No connection outlives its last lease and its place here.

use std::{
    cell::{Cell, RefCell},
    future::{Future as _, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::{AcquireError, Connection, Wanted};
use crate::{
    cluster::{breaker::Permit, endpoint::Endpoint},
    http::h2::{Meter, Transport, Watch, pings::Pings},
    pool::connection::Life,
    tls::Spoken,
    worker::timer::Deadline,
};

/// A connection that refuses streams is not tried again for a request that it refused; a second one is.
const FRESH_LIMIT: usize = 2;

/// All connections with one endpoint.
#[derive(Default)]
pub(super) struct Shared {
    /// Those that may take requests, oldest first.
    open: RefCell<Vec<Rc<Open>>>,
    /// Held by who opens a connection; the others wait here.
    opening: Mutex<()>,
    /// Attempts to open a connection that failed. Who waited for one fails with it.
    failures: Cell<u64>,
    /// Told when a stream ends while somebody waits for room.
    room: Notify,
    waiting: Cell<usize>,
}

/// One connection.
struct Open {
    sender: RefCell<SendRequest<Bytes>>,
    endpoint: Arc<Endpoint>,
    /// Streams under way.
    active: Cell<usize>,
    /// Requests so far.
    requests: Cell<u32>,
    /// Streams that it may have, by configuration.
    limit: usize,
    /// The last stream was refused.
    refusing: Cell<bool>,
    idle_since: Cell<Instant>,
    idle_timeout: Option<Duration>,
}

/// The right to send one request.
pub(crate) struct H2Lease {
    open: Rc<Open>,
    shared: Rc<Shared>,
    /// Whether the connection was there before.
    pub(crate) reused: bool,
}

/// Counts those who wait for room.
struct Waiting<'a>(&'a Cell<usize>);

// === impl Shared ===

impl Shared {
    pub(super) async fn lease(self: &Rc<Self>, wanted: &Wanted<'_>) -> Result<H2Lease, AcquireError> {
        if let Some(open) = self.pick(wanted) {
            return Ok(self.hand_out(open, true));
        }
        let Wanted { cluster, local, timer, .. } = *wanted;
        let breaker = wanted.breaker();
        let cells = cluster.stats.at(wanted.worker);
        let Some(_pending) = Permit::take(&breaker.pending, breaker.limits.pending) else {
            cells.rq_pending_overflow.add(1);
            return Err(AcquireError::Overflow);
        };
        let failures = self.failures.get();
        timer.arm(Deadline::Upstream, Some(cluster.connect_timeout));
        let _turn =
            timer.limit(Deadline::Upstream, self.opening.lock()).await.map_err(|_| AcquireError::Timeout)?;
        loop {
            if let Some(open) = self.pick(wanted) {
                timer.disarm(Deadline::Upstream);
                return Ok(self.hand_out(open, true));
            }
            if self.failures.get() != failures {
                return Err(AcquireError::Connect);
            }
            let permit = Permit::take(&breaker.connections, breaker.limits.connections);
            // As for HTTP/1: every worker may have one, or the connections of the others would starve it.
            let permit = permit.or_else(|| local.is_empty().then(|| Permit::force(&breaker.connections)));
            if let Some(permit) = permit {
                let opened = self.open(wanted, permit).await;
                if opened.is_err() {
                    self.failures.set(self.failures.get() + 1);
                }
                return opened.map(|open| self.hand_out(open, false));
            }
            cells.cx_overflow.add(1);
            let _waiting = Waiting::new(&self.waiting);
            timer.limit(Deadline::Upstream, self.room.notified()).await.map_err(|_| AcquireError::Timeout)?;
        }
    }

    /// Closes what is idle for too long or whose endpoint is gone; whether nothing is left.
    pub(super) fn sweep(&self) -> bool {
        self.open.borrow_mut().retain(|open| {
            let timeout = open.active.get() == 0 && open.is_expired();
            !open.endpoint.is_gone() && !timeout && open.is_usable()
        });
        self.open.borrow().is_empty() && self.waiting.get() == 0 && self.opening.try_lock().is_ok()
    }

    /// A connection with room.
    fn pick(&self, wanted: &Wanted<'_>) -> Option<Rc<Open>> {
        let mut connections = self.open.borrow_mut();
        let max_requests = wanted.cluster.max_requests_per_connection;
        let mut found = None;
        let mut index = 0;
        while let Some(open) = connections.get(index) {
            let worn = max_requests.is_some_and(|max| open.requests.get() >= max);
            if worn || !open.is_usable() {
                connections.remove(index);
                continue;
            }
            if open.has_room() {
                if !(wanted.fresh && open.refusing.get()) {
                    return Some(Rc::clone(open));
                }
                found.get_or_insert_with(|| Rc::clone(open));
            }
            index += 1;
        }
        // Only refusing ones: one more is worth a try, but not one for each request.
        found.filter(|_| connections.len() >= FRESH_LIMIT)
    }

    fn hand_out(self: &Rc<Self>, open: Rc<Open>, reused: bool) -> H2Lease {
        open.active.set(open.active.get() + 1);
        open.requests.set(open.requests.get().saturating_add(1));
        H2Lease { open, shared: Rc::clone(self), reused }
    }

    async fn open(&self, wanted: &Wanted<'_>, permit: Permit) -> Result<Rc<Open>, AcquireError> {
        let Wanted { cluster, endpoint, worker, timer, .. } = *wanted;
        let Connection { stream, life, .. } = Connection::open(wanted, permit, Spoken::Http2).await?;
        cluster.stats.at(worker).cx_http2_total.add(1);
        let settings = &cluster.http2;
        let (transport, watch) = Transport::new(Bytes::new(), stream, Meter::of_server(settings.budget));
        timer.arm(Deadline::Upstream, Some(cluster.connect_timeout));
        let handshake = timer.limit(Deadline::Upstream, settings.client().handshake(transport)).await;
        timer.disarm(Deadline::Upstream);
        let (sender, mut connection) = handshake.map_err(|_| AcquireError::Timeout)?.map_err(|error| {
            tracing::debug!(endpoint = %endpoint.address, %error, "http/2 handshake failed");
            AcquireError::Connect
        })?;
        let pings = Pings::new(settings.keepalive, connection.ping_pong());
        tokio::task::spawn_local(drive(connection, pings, watch, life));
        let open = Rc::new(Open {
            sender: RefCell::new(sender),
            endpoint: Arc::clone(endpoint),
            active: Cell::new(0),
            requests: Cell::new(0),
            limit: settings.max_concurrent_streams as usize,
            refusing: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            idle_timeout: cluster.idle_timeout,
        });
        self.open.borrow_mut().push(Rc::clone(&open));
        Ok(open)
    }
}

/// Runs a connection until it ends: when the peer ends it, or when nobody can send on it any more.
async fn drive(
    connection: h2::client::Connection<Transport, Bytes>,
    mut pings: Pings,
    watch: Rc<Watch>,
    life: Life,
) {
    let mut connection = pin!(connection);
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| error.to_string()));
        }
        if let Some(flood) = watch.flood() {
            return Poll::Ready(Err(flood.to_string()));
        }
        pings.poll(cx).map(|_| Err("no answer to a ping".to_owned()))
    })
    .await;
    if let Err(error) = result {
        life.cells().cx_protocol_error.add(1);
        tracing::debug!(endpoint = %life.endpoint.address, %error, "upstream http/2 connection ended");
    }
}

// === impl Open ===

impl Open {
    /// Whether a new request can be sent at all. False after a GOAWAY, on a closed connection, and when the stream numbers
    /// are used up.
    fn is_usable(&self) -> bool {
        let ready = self.sender.borrow_mut().poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(ready, Poll::Ready(Err(_)))
    }

    fn has_room(&self) -> bool {
        let active = self.active.get();
        active < self.limit && active < self.sender.borrow().current_max_send_streams()
    }

    fn is_expired(&self) -> bool {
        self.idle_timeout.is_some_and(|timeout| self.idle_since.get().elapsed() >= timeout)
    }
}

// === impl H2Lease ===

impl H2Lease {
    /// Puts a request on the connection. If that fails, nothing of it was sent.
    pub(crate) fn send(
        &self,
        request: http::Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        self.open.sender.borrow_mut().send_request(request, end)
    }

    /// Notes whether the peer took the stream.
    pub(crate) fn refused(&self, refused: bool) {
        self.open.refusing.set(refused);
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        let active = self.open.active.get().saturating_sub(1);
        self.open.active.set(active);
        if active == 0 {
            self.open.idle_since.set(Instant::now());
        }
        if self.shared.waiting.get() > 0 {
            self.shared.room.notify_one();
        }
    }
}

// === impl Waiting ===

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
