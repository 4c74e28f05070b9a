//! One connection to an upstream.

use std::{
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{io::AsyncWriteExt as _, net::TcpSocket};

use crate::{
    cluster::{breaker::Permit, endpoint::Endpoint},
    http::io::{IoError, RecvBuf},
    metrics::{ClusterCells, PerWorker},
    net::Stream,
    pool::{ClusterLocal, Wanted},
    proxy_protocol::{self, Addresses},
    tls::Spoken,
    worker::timer::Deadline,
};

/// A connection with its buffers; everything that counts connections hangs on its life.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) recv: RecvBuf,
    pub(crate) out: Vec<u8>,
    /// Requests sent so far.
    pub(crate) requests: u32,
    /// When an idle connection is closed, by the worker's coarse clock.
    expires: u64,
    /// What the endpoint was told about the client.
    said: Option<Box<Addresses>>,
    pub(crate) life: Life,
}

/// Counts a connection from opening to closing.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) endpoint: Arc<Endpoint>,
    local: Rc<ClusterLocal>,
    stats: Arc<PerWorker<ClusterCells>>,
    worker: usize,
    _permit: Permit,
}

// === impl Connection ===

impl Connection {
    /// Connects to the endpoint.
    pub(crate) async fn open(wanted: &Wanted<'_>, permit: Permit, spoken: Spoken) -> Result<Self, IoError> {
        let Wanted { cluster, local, endpoint, worker, timer, .. } = *wanted;
        let cells = cluster.stats.at(worker);
        cells.cx_total.add(1);
        endpoint.stats.cx_total.fetch_add(1, Ordering::Relaxed);
        endpoint.stats.cx_active.fetch_add(1, Ordering::Relaxed);
        local.open.set(local.open.get() + 1);
        // From here on counted down by its drop, connected or not.
        let life = Life {
            endpoint: Arc::clone(endpoint),
            local: Rc::clone(local),
            stats: Arc::clone(&cluster.stats),
            worker,
            _permit: permit,
        };
        timer.arm(Deadline::Upstream, Some(cluster.connect_timeout));
        let result = timer.limit(Deadline::Upstream, connect(wanted, spoken, cells)).await;
        timer.disarm(Deadline::Upstream);
        let failed = |error: IoError| {
            cells.cx_connect_fail.add(1);
            if error.is_timeout() {
                cells.cx_connect_timeout.add(1);
            }
            endpoint.stats.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
            error
        };
        let stream = match result {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(endpoint = %endpoint.address, %error, "cannot connect");
                return Err(failed(IoError::Closed));
            }
            Err(_) => return Err(failed(IoError::Timeout)),
        };
        Ok(Self {
            stream,
            recv: RecvBuf::default(),
            out: Vec::new(),
            requests: 0,
            expires: u64::MAX,
            said: wanted.said().copied().map(Box::new),
            life,
        })
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.life.endpoint
    }

    pub(super) fn said(&self) -> Option<&Addresses> {
        self.said.as_deref()
    }

    pub(super) fn local(&self) -> &Rc<ClusterLocal> {
        &self.life.local
    }

    /// Prepares for a time without requests.
    pub(super) fn rest(&mut self, idle_timeout: Option<Duration>, now: u64) {
        self.recv.shrink();
        if self.out.capacity() > 16 * 1024 {
            self.out = Vec::new();
        }
        self.expires = idle_timeout.map_or(u64::MAX, |timeout| {
            now.saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX))
        });
    }

    /// Gives the buffers back; the next request makes them anew.
    pub(super) fn drop_buffers(&mut self) {
        self.recv = RecvBuf::default();
        self.out = Vec::new();
    }

    pub(super) fn is_expired(&self, now: u64) -> bool {
        self.expires <= now
    }

    /// Whether the upstream closed the connection or sent something unasked while it was idle. Costs no system call as
    /// long as nothing happened.
    pub(super) fn is_stale(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

// === impl Life ===

impl Life {
    pub(crate) fn cells(&self) -> &ClusterCells {
        self.stats.at(self.worker)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.cells().cx_destroy.add(1);
        self.endpoint.stats.cx_active.fetch_sub(1, Ordering::Relaxed);
        self.local.open.set(self.local.open.get().saturating_sub(1));
        self.local.freed.notify_one();
    }
}

/// Connects, says for whom if that is wanted, and with TLS agrees on a session.
async fn connect(wanted: &Wanted<'_>, spoken: Spoken, cells: &ClusterCells) -> io::Result<Stream> {
    let Wanted { cluster, endpoint, .. } = *wanted;
    let socket = if endpoint.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(keepalive) = &cluster.keepalive {
        let mut settings = TcpKeepalive::new();
        if let Some(time) = keepalive.time {
            settings = settings.with_time(time);
        }
        if let Some(interval) = keepalive.interval {
            settings = settings.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            settings = settings.with_retries(probes);
        }
        SockRef::from(&socket).set_tcp_keepalive(&settings)?;
    }
    let mut stream = socket.connect(endpoint.address).await?;
    stream.set_nodelay(true)?;
    if let Some(version) = cluster.proxy_protocol {
        stream.write_all(&proxy_protocol::write::header(version, Some(wanted.client))).await?;
    }
    match &cluster.tls {
        None => Ok(stream.into()),
        Some(tls) => {
            let session = Box::pin(tls.connect(stream, endpoint.address, spoken, &cells.ssl));
            Ok(Stream::Tls(Box::new(session.await?)))
        }
    }
}
