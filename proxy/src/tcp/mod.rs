//! TCP: connections forwarded as they are.

pub(crate) mod relay;
mod splice;

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    access_log::{AccessLog, Entry},
    balance::{Ask, Chooser, Criteria, Random, pick},
    cluster::{
        Cluster, ClusterSlot, Discovery,
        breaker::{Permit, Priority},
    },
    http::exchange::{Reason, Record},
    metrics::{PerWorker, TcpCells},
    net::Stream,
    pool::{Connection, Wanted},
    proxy_protocol::Addresses,
    tcp::relay::End,
    tls::{Identity, Spoken},
    worker::{
        Worker,
        timer::{Deadline, Timer},
    },
};

/// A compiled TCP proxy.
#[derive(Debug)]
pub(crate) struct TcpProxy {
    pub(crate) stats: Arc<PerWorker<TcpCells>>,
    /// At least one.
    pub(crate) clusters: Vec<Destination>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_connect_attempts: u32,
    pub(crate) max_duration: Option<MaxDuration>,
    pub(crate) access_logs: Vec<Arc<AccessLog>>,
}

/// A cluster that connections go to.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) cluster: Arc<ClusterSlot>,
    pub(crate) weight: u32,
    /// Which of its endpoints.
    pub(crate) criteria: Option<Arc<Criteria>>,
}

/// How long a connection may last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MaxDuration {
    pub(crate) least: Duration,
    /// Up to this is added at random, so that connections that began together do not all come back together.
    pub(crate) jitter: Duration,
}

/// Where a connection came from.
pub(crate) struct Origin {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// The number of the connection.
    pub(crate) id: u64,
    pub(crate) original: Option<SocketAddr>,
    pub(crate) tls: Option<Rc<Identity>>,
}

/// Forwards `stream`, of which `held` was read already, until both sides are done.
pub(crate) async fn serve(
    proxy: &TcpProxy,
    worker: &Rc<Worker>,
    stream: Stream,
    held: &[u8],
    origin: &Origin,
    timer: &Timer,
) {
    let started = Instant::now();
    let cells = proxy.stats.at(worker.index);
    cells.cx_total.add(1);
    let mut record = Record::default();
    timer.arm(Deadline::Response, proxy.max_duration.map(|limit| limit.draw(&worker.random)));
    match connect(proxy, worker, origin, timer, &mut record).await {
        None => abort(&stream),
        Some(upstream) => {
            let relayed = relay::run(&stream, &upstream.stream, held, &[], timer, proxy.idle_timeout).await;
            record.bytes_received = relayed.to_upstream;
            record.bytes_sent = relayed.to_client;
            let upstream_cells = upstream.life.cells();
            upstream_cells.cx_tx_bytes.add(relayed.to_upstream);
            upstream_cells.cx_rx_bytes.add(relayed.to_client);
            cells.cx_rx_bytes.add(relayed.to_upstream);
            cells.cx_tx_bytes.add(relayed.to_client);
            match relayed.end {
                End::Finished | End::Refused => {}
                End::Idle => {
                    cells.idle_timeout.add(1);
                    record.reason = Reason::StreamIdleTimeout;
                }
                End::Expired => {
                    cells.max_duration.add(1);
                    record.reason = Reason::MaxDurationTimeout;
                }
                // A reset must not look like an end in order: what was sent may be half of what was meant.
                End::ClientReset => {
                    record.reason = Reason::DownstreamDisconnect;
                    abort(&upstream.stream);
                }
                End::UpstreamReset => {
                    record.reason = Reason::UpstreamCut;
                    abort(&stream);
                }
            }
        }
    }
    cells.cx_destroy.add(1);
    for log in &proxy.access_logs {
        let entry = Entry {
            request: None,
            response: None,
            status: 0,
            record: &record,
            duration: started.elapsed(),
            peer: origin.peer,
            local: origin.local,
            connection: origin.id,
            tls: origin.tls.as_deref(),
        };
        log.write(&entry, worker);
    }
}

/// Ends a connection by a reset: nobody is there, or no longer.
fn abort(stream: &Stream) {
    let _ = socket2::SockRef::from(stream.socket()).set_linger(Some(Duration::ZERO));
}

async fn connect(
    proxy: &TcpProxy,
    worker: &Rc<Worker>,
    origin: &Origin,
    timer: &Timer,
    record: &mut Record,
) -> Option<Connection> {
    let Some((cluster, criteria)) = choose(proxy, worker) else {
        proxy.stats.at(worker.index).cx_no_route.add(1);
        record.reason = Reason::ClusterNotFound;
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
            _ => {
                let chooser = Chooser { turns: &local.turns, random: &worker.random, worker: worker.index };
                let criteria = criteria.as_deref();
                pick(&cluster, chooser, &Ask { hash: None, tried: &tried, criteria })
            }
        };
        let Some(endpoint) = endpoint else {
            cluster.stats.at(worker.index).cx_none_healthy.add(1);
            record.reason = Reason::NoHealthyUpstream;
            return None;
        };
        record.upstream = Some(Arc::clone(&endpoint));
        let breaker = &cluster.breaker;
        let Some(permit) = Permit::take(&breaker.connections, breaker.limits.connections) else {
            cluster.stats.at(worker.index).cx_overflow.add(1);
            record.reason = Reason::UpstreamOverflow;
            return None;
        };
        let wanted = Wanted {
            cluster: &cluster,
            local: &local,
            endpoint: &endpoint,
            worker: worker.index,
            timer,
            client: Addresses { source: origin.peer, destination: origin.local },
            fresh: true,
            priority: Priority::Default,
        };
        match Connection::open(&wanted, permit, Spoken::Opaque).await {
            Ok(connection) => return Some(connection),
            Err(_) => tried.push(endpoint.id),
        }
    }
    cluster.stats.at(worker.index).cx_connect_attempts_exceeded.add(1);
    record.reason = Reason::ConnectFailure;
    record.retries_exhausted = true;
    None
}

fn choose(proxy: &TcpProxy, worker: &Worker) -> Option<(Arc<Cluster>, Option<Arc<Criteria>>)> {
    let total: u32 = proxy.clusters.iter().map(|destination| destination.weight).sum();
    let mut point = worker.random.below(total.max(1) as usize) as u32;
    let chosen = proxy.clusters.iter().find(|destination| {
        let here = point < destination.weight;
        point = point.saturating_sub(destination.weight);
        here
    })?;
    Some((chosen.cluster.get()?, chosen.criteria.clone()))
}

// === impl MaxDuration ===

impl MaxDuration {
    fn draw(&self, random: &Random) -> Duration {
        let millis = usize::try_from(self.jitter.as_millis()).unwrap_or(usize::MAX - 1);
        self.least + Duration::from_millis(random.below(millis + 1) as u64)
    }
}
