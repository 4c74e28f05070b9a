//! What looks at a connection before its filter chain is chosen.

use std::net::SocketAddr;

use super::{
    Listener, detect,
    matching::{Traits, Transport},
    original_dst, proxy_protocol,
    proxy_protocol::ProxyProtocol,
    tls_inspector,
    tls_inspector::TlsInspector,
};
use crate::{
    http::io::RecvBuf,
    net::Stream,
    worker::timer::{Deadline, Timer},
};

/// A listener filter. They run in the order in which they are configured; each finds what those before it left.
#[derive(Debug)]
pub(crate) enum ListenerFilter {
    OriginalDst,
    ProxyProtocol(ProxyProtocol),
    TlsInspector(TlsInspector),
    HttpInspector,
}

/// What is known about a connection before it is served.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) traits: Traits,
    /// Where the connection came in, or where a proxy before us says that it did.
    pub(crate) local: SocketAddr,
    /// Where the client wanted to go, if that is somewhere else than where it came in.
    pub(crate) original: Option<SocketAddr>,
}

/// The beginning of a connection, under the eyes of a filter.
pub(super) struct Look<'l> {
    pub(super) stream: &'l Stream,
    /// What was read and not consumed; the filters after this one and the filter chain get it.
    pub(super) recv: &'l mut RecvBuf,
    pub(super) timer: &'l Timer,
    /// Of the worker, for counting.
    pub(super) worker: usize,
}

/// Why a connection goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The filters took too long together.
    Timeout,
    /// The client left.
    Gone,
    /// The connection is not what it must be; counted by the filter.
    Refused,
}

/// Runs the filters of a listener; `false` if the connection is over.
pub(super) async fn run(listener: &Listener, facts: &mut Facts, look: &mut Look<'_>) -> bool {
    if listener.filters.is_empty() {
        return true;
    }
    look.timer.arm(Deadline::Downstream, listener.filters_timeout);
    let result = one_by_one(listener, facts, look).await;
    look.timer.disarm(Deadline::Downstream);
    let cells = listener.stats.at(look.worker);
    match result {
        Ok(()) => true,
        Err(Stop::Timeout) => {
            cells.pre_cx_timeout.add(1);
            listener.continue_on_timeout
        }
        Err(Stop::Gone) => {
            cells.filter_remote_close.add(1);
            false
        }
        Err(Stop::Refused) => {
            cells.filter_error.add(1);
            false
        }
    }
}

async fn one_by_one(listener: &Listener, facts: &mut Facts, look: &mut Look<'_>) -> Result<(), Stop> {
    for filter in &listener.filters {
        match filter {
            ListenerFilter::OriginalDst => original_dst::run(facts, look.stream),
            ListenerFilter::ProxyProtocol(filter) => proxy_protocol::run(filter, facts, look).await?,
            ListenerFilter::TlsInspector(filter) => tls_inspector::run(filter, facts, look).await?,
            ListenerFilter::HttpInspector => detect::run(facts, look).await?,
        }
    }
    Ok(())
}

// === impl Facts ===

impl Facts {
    /// What is known without looking.
    pub(super) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let traits = Traits {
            destination: local,
            source: peer,
            direct_source: peer,
            transport: Transport::Raw,
            server_name: None,
            applications: Vec::new(),
        };
        Self { traits, local, original: None }
    }

    /// Who the client is.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.traits.source
    }

    /// The client wanted to go to `destination`.
    pub(super) fn restore_destination(&mut self, destination: SocketAddr) {
        if destination != self.local {
            self.original = Some(destination);
            self.traits.destination = destination;
        }
    }
}

// === impl Look ===

impl Look<'_> {
    /// Waits for more bytes; `limit` are kept at most, and the caller must know what to do with that many.
    pub(super) async fn more(&mut self, limit: usize) -> Result<(), Stop> {
        match self.recv.fill(self.stream, limit, self.timer, Deadline::Downstream).await {
            Ok(0) => Err(Stop::Gone),
            Ok(_) => Ok(()),
            Err(error) if error.is_timeout() => Err(Stop::Timeout),
            Err(_) => Err(Stop::Gone),
        }
    }
}
