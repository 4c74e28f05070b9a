//! TCP: connections forwarded as they are.

pub(crate) mod relay;
mod splice;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    access_log::{AccessLog, Entry},
    balance::pick,
    cluster::{Cluster, ClusterSlot, Discovery, breaker::Permit},
    http::exchange::{Record, flags},
    metrics::{PerWorker, TcpCells},
    pool::Connection,
    worker::{Worker, timer::Timer},
};

/// A compiled TCP proxy.
#[derive(Debug)]
pub(crate) struct TcpProxy {
    pub(crate) stats: Arc<PerWorker<TcpCells>>,
    /// Cluster and weight, at least one.
    pub(crate) clusters: Vec<(Arc<ClusterSlot>, u32)>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_connect_attempts: u32,
    pub(crate) access_logs: Vec<Arc<AccessLog>>,
}

/// Where a connection came from.
pub(crate) struct Origin {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) original: Option<SocketAddr>,
}

/// Forwards `stream`, of which `held` was read already, until both sides are done.
pub(crate) async fn serve(
    proxy: &TcpProxy,
    worker: &Rc<Worker>,
    stream: TcpStream,
    held: &[u8],
    origin: &Origin,
    timer: &Timer,
) {
    let started = Instant::now();
    let cells = proxy.stats.at(worker.index);
    cells.cx_total.add(1);
    let mut record = Record::default();
    match connect(proxy, worker, origin, timer, &mut record).await {
        None => abort(&stream),
        Some(upstream) => {
            let counts = relay::run(&stream, &upstream.stream, held, &[], timer, proxy.idle_timeout).await;
            record.bytes_received = counts.to_upstream;
            record.bytes_sent = counts.to_client;
            let upstream_cells = upstream.life.cells();
            upstream_cells.cx_tx_bytes.add(counts.to_upstream);
            upstream_cells.cx_rx_bytes.add(counts.to_client);
            cells.cx_rx_bytes.add(counts.to_upstream);
            cells.cx_tx_bytes.add(counts.to_client);
        }
    }
    cells.cx_destroy.add(1);
    for log in &proxy.access_logs {
        log.write(&Entry {
            request: None,
            response: None,
            record: &record,
            duration: started.elapsed(),
            peer: origin.peer,
            local: origin.local,
        });
    }
}

/// Tells the client by a reset that nobody is there, as a refused connection would.
fn abort(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn connect(
    proxy: &TcpProxy,
    worker: &Rc<Worker>,
    origin: &Origin,
    timer: &Timer,
    record: &mut Record,
) -> Option<Connection> {
    let Some(cluster) = choose(proxy, worker) else {
        proxy.stats.at(worker.index).cx_no_route.add(1);
        record.flags = flags::NO_CLUSTER;
        return None;
    };
    record.cluster = Some(Arc::clone(&cluster.name));
    let local = worker.pools.local(&cluster);
    let mut tried = Vec::new();
    for _ in 0..proxy.max_connect_attempts {
        let endpoint = match &cluster.discovery {
            Discovery::OriginalDst { port_override } => origin.original.map(|mut address| {
                address.set_port(port_override.unwrap_or(address.port()));
                worker.pools.original(&local, address)
            }),
            _ => pick(&cluster, &cluster.endpoints.load(), &local.turn, &worker.random, &tried),
        };
        let Some(endpoint) = endpoint else {
            cluster.stats.at(worker.index).cx_none_healthy.add(1);
            record.flags = flags::NO_HEALTHY;
            return None;
        };
        record.upstream = Some(Arc::clone(&endpoint));
        let breaker = &cluster.breaker;
        let Some(permit) = Permit::take(&breaker.connections, breaker.limits.connections) else {
            cluster.stats.at(worker.index).cx_overflow.add(1);
            record.flags = flags::OVERFLOW;
            return None;
        };
        match Connection::open(&cluster, &local, &endpoint, worker.index, timer, permit).await {
            Ok(connection) => return Some(connection),
            Err(_) => tried.push(endpoint.id),
        }
    }
    record.flags = flags::CONNECT_FAILURE;
    None
}

fn choose(proxy: &TcpProxy, worker: &Worker) -> Option<Arc<Cluster>> {
    let total: u32 = proxy.clusters.iter().map(|(_, weight)| weight).sum();
    let mut point = worker.random.below(total.max(1) as usize) as u32;
    let (slot, _) = proxy.clusters.iter().find(|(_, weight)| {
        let here = point < *weight;
        point = point.saturating_sub(*weight);
        here
    })?;
    slot.get()
}
