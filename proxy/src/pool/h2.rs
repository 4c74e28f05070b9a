//! The one HTTP/2 connection that a worker has with an endpoint.

use std::{cell::Cell, rc::Rc, sync::Arc};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;

use super::{AcquireError, ClusterLocal, Connection};
use crate::{
    cluster::{Cluster, breaker::Permit, endpoint::Endpoint},
    http::h2::{LocalExecutor, sink::H2Body},
    worker::timer::{Deadline, Timer},
};

/// A place for the connection; whoever finds it empty connects while the others wait.
#[derive(Default)]
pub(super) struct Shared {
    current: Mutex<Option<Open>>,
}

struct Open {
    sender: SendRequest<H2Body>,
    endpoint: Arc<Endpoint>,
    /// Leases alive.
    active: Rc<Cell<usize>>,
}

/// The right to send one request.
pub(crate) struct H2Lease {
    pub(crate) sender: SendRequest<H2Body>,
    active: Rc<Cell<usize>>,
}

// === impl Shared ===

impl Shared {
    pub(super) async fn lease(
        &self,
        cluster: &Arc<Cluster>,
        local: &Rc<ClusterLocal>,
        endpoint: &Arc<Endpoint>,
        worker: usize,
        timer: &Timer,
    ) -> Result<H2Lease, AcquireError> {
        timer.arm(Deadline::Upstream, Some(cluster.connect_timeout));
        let mut current =
            timer.limit(Deadline::Upstream, self.current.lock()).await.map_err(|_| AcquireError::Timeout)?;
        if let Some(open) = current.as_ref().filter(|open| !open.sender.is_closed()) {
            timer.disarm(Deadline::Upstream);
            return Ok(open.lease());
        }
        let breaker = &cluster.breaker;
        let permit =
            Permit::take(&breaker.connections, breaker.limits.connections).ok_or(AcquireError::Overflow)?;
        let connection = Connection::open(cluster, local, endpoint, worker, timer, permit).await?;
        cluster.stats.at(worker).cx_http2_total.add(1);
        let Connection { stream, life, .. } = connection;
        let settings = &cluster.http2;
        let mut builder = Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_header_list_size(64 * 1024);
        if let Some((interval, timeout)) = settings.keepalive {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout);
        }
        timer.arm(Deadline::Upstream, Some(cluster.connect_timeout));
        let handshake = timer.limit(Deadline::Upstream, builder.handshake(TokioIo::new(stream))).await;
        timer.disarm(Deadline::Upstream);
        let (sender, driver) = handshake.map_err(|_| AcquireError::Timeout)?.map_err(|error| {
            tracing::debug!(endpoint = %endpoint.address, %error, "http/2 handshake failed");
            AcquireError::Connect
        })?;
        tokio::task::spawn_local(async move {
            // The connection lives as long as its driver, whoever holds a sender.
            let _life = life;
            if let Err(error) = driver.await {
                tracing::debug!(%error, "upstream http/2 connection ended");
            }
        });
        let open = Open { sender, endpoint: Arc::clone(endpoint), active: Rc::default() };
        let lease = open.lease();
        *current = Some(open);
        Ok(lease)
    }

    /// Whether the connection can be given up: closed, or its endpoint gone. Requests in flight hold it open by
    /// themselves until they are done.
    pub(super) fn is_unused(&self) -> bool {
        self.current.try_lock().is_ok_and(|current| {
            current.as_ref().is_none_or(|open| {
                open.sender.is_closed() || (open.endpoint.is_gone() && open.active.get() == 0)
            })
        })
    }
}

// === impl Open ===

impl Open {
    fn lease(&self) -> H2Lease {
        self.active.set(self.active.get() + 1);
        H2Lease { sender: self.sender.clone(), active: Rc::clone(&self.active) }
    }
}

impl Drop for H2Lease {
    fn drop(&mut self) {
        self.active.set(self.active.get().saturating_sub(1));
    }
}
