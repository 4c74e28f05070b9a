//! The mesh's DNS server: names of services from the mesh's state, all other names from the resolvers of the host.
//!
//! A service answers to its full name (`web.default.svc.cluster.local`), and also to `web.default.svc`, `web.default`
//! and, in the default namespace, to `web`: a workload whose resolver has no search list finds it too. Short names
//! that no service has are forwarded, for a namespace may be called like a top-level domain.
//!
//! # Guarantees
//! * Nothing below the cluster's domain is ever forwarded.
//! * While the mesh's state is not known yet, its names give SERVFAIL (which clients retry), never "no such name".
//! * The number of forwarded queries in flight is bounded; above it, queries get SERVFAIL at once.
//! * Only clients with loopback, private or link-local addresses are forwarded for: this is no open resolver.

mod forward;
mod handler;
mod zone;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_proto::{ProtoError, rr::Name};
use hickory_server::{Server, net::NetError};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use self::forward::Forward;
use self::{forward::Forwarder, handler::Handler, zone::Zone};
use crate::model::MeshState;

/// A TCP client that sends nothing for as long is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait for a slow TCP reader.
const TCP_BUFFERED_ANSWERS: usize = 16;
/// With port 0 the kernel chooses the TCP port, and the same UDP port may be taken: attempts before giving up.
const BIND_ATTEMPTS: usize = 16;

/// How names are answered.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The domain of the cluster.
    pub cluster_domain: String,
    /// The namespace of names that tell none.
    pub default_namespace: String,
    /// How long answers about services may be cached; 5 s as CoreDNS has it.
    pub ttl: Duration,
    /// Where other names are asked for.
    pub forward: Forward,
}

/// Why the DNS server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be listened on.
    #[error("cannot listen for DNS on {address}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The domain is not a DNS name.
    #[error("cluster domain {domain:?} is not a domain name")]
    Domain {
        /// What was given.
        domain: String,
        /// What is wrong with it.
        #[source]
        source: ProtoError,
    },
    /// The resolver for other names cannot be set up.
    #[error("cannot set up the resolver for names outside of the cluster")]
    Forward(#[source] NetError),
    /// A socket failed for good while serving.
    #[error("the DNS server stopped")]
    Serve(#[source] NetError),
}

/// A bound DNS server; it answers once [`run`](Self::run) is called.
pub struct DnsServer {
    address: SocketAddr,
    server: Server<Handler>,
}

// === impl DnsConfig ===

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".to_owned(),
            default_namespace: "default".to_owned(),
            ttl: Duration::from_secs(5),
            forward: Forward::System,
        }
    }
}

// === impl DnsServer ===

impl DnsServer {
    /// Binds UDP and TCP at `address` (port 0: any port, the same for both).
    pub async fn bind(
        address: SocketAddr,
        state: watch::Receiver<Arc<MeshState>>,
        config: DnsConfig,
    ) -> Result<Self, DnsError> {
        let domain = Name::from_ascii(&config.cluster_domain)
            .map_err(|source| DnsError::Domain { domain: config.cluster_domain.clone(), source })?;
        let (udp, tcp) = bind_both(address).await.map_err(|source| DnsError::Bind { address, source })?;
        let address = tcp.local_addr().map_err(|source| DnsError::Bind { address, source })?;
        let forwarder = Forwarder::new(&config.forward, address).map_err(DnsError::Forward)?;
        let zone = Zone::new(domain, config.default_namespace, config.ttl);
        let mut server = Server::new(Handler::new(zone, forwarder, state));
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFERED_ANSWERS);
        Ok(Self { address, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), DnsError> {
        info!(address = %self.address, "DNS server started");
        tokio::select! {
            () = shutdown.cancelled() => {}
            done = self.server.block_until_done() => return done.map_err(DnsError::Serve),
        }
        self.server.shutdown_gracefully().await.map_err(DnsError::Serve)
    }
}

async fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempts = if address.port() == 0 { BIND_ATTEMPTS } else { 1 };
    loop {
        let tcp = TcpListener::bind(address).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(_) if attempts > 1 => attempts -= 1,
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
