//! Names outside of the cluster: asked for at the resolvers of the host.

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    system_conf,
};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Forwarded queries in flight; a flood beyond it is answered with SERVFAIL instead of using more memory and ports.
const MAX_IN_FLIGHT: usize = 512;
/// A stub resolver waits 5 s by default: two attempts of this length fit into it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
const CACHED_ANSWERS: u64 = 4096;
/// However long others want an answer kept, a wrong one must not stay for days.
const MAX_TTL: Duration = Duration::from_secs(3600);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(300);

/// Where names outside of the cluster are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// At the name servers in `/etc/resolv.conf`; as [`Nowhere`](Self::Nowhere) if it names none but ourselves.
    System,
    /// At these name servers.
    Servers(Vec<SocketAddr>),
    /// Nowhere: such queries are refused.
    Nowhere,
}

/// What the other name servers say.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// The records, with the aliases that lead to them.
    Records(Vec<Record>),
    /// There are none, and why.
    Negative { code: ResponseCode, soa: Option<Box<Record>> },
    /// Nobody answered, or too many ask.
    Failed,
    /// We do not forward.
    Refused,
}

pub(super) struct Forwarder {
    resolver: Option<TokioResolver>,
    permits: Semaphore,
}

// === impl Forwarder ===

impl Forwarder {
    /// `own` is the address of this server, which must not ask itself.
    pub(super) fn new(forward: &Forward, own: SocketAddr) -> Result<Self, NetError> {
        let servers = match forward {
            Forward::Nowhere => vec![],
            Forward::Servers(servers) => servers.iter().copied().map(name_server).collect(),
            Forward::System => system_servers(),
        };
        let servers: Vec<NameServerConfig> =
            servers.into_iter().filter(|server| !is_self(server, own)).collect();
        let permits = Semaphore::new(MAX_IN_FLIGHT);
        if servers.is_empty() {
            return Ok(Self { resolver: None, permits });
        }
        let config = ResolverConfig::from_parts(None, vec![], servers);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options())
            .build()?;
        Ok(Self { resolver: Some(resolver), permits })
    }

    pub(super) async fn lookup(&self, name: &Name, kind: RecordType) -> Forwarded {
        let Some(resolver) = &self.resolver else { return Forwarded::Refused };
        let Ok(_permit) = self.permits.try_acquire() else {
            debug!(%name, "too many forwarded queries in flight");
            return Forwarded::Failed;
        };
        let mut name = name.clone();
        // Only then is it asked for as it is.
        name.set_fqdn(true);
        match resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => Forwarded::Records(lookup.answers().to_vec()),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Forwarded::Negative {
                code: none.response_code,
                soa: none.soa.map(|soa| Box::new(soa.into_record_of_rdata())),
            },
            Err(error) => {
                debug!(%name, %kind, %error, "forwarded query failed");
                Forwarded::Failed
            }
        }
    }
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ATTEMPT_TIMEOUT;
    options.attempts = 1;
    options.cache_size = CACHED_ANSWERS;
    options.use_hosts_file = ResolveHosts::Never;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    options.max_active_requests = MAX_IN_FLIGHT;
    options
}

fn system_servers() -> Vec<NameServerConfig> {
    match system_conf::read_system_conf() {
        Ok((config, _)) => config.name_servers().to_vec(),
        Err(error) => {
            warn!(%error, "cannot read the host's resolver configuration, names outside of the cluster are refused");
            vec![]
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn is_self(server: &NameServerConfig, own: SocketAddr) -> bool {
    let same_host = server.ip == own.ip() || (own.ip().is_unspecified() && server.ip.is_loopback());
    same_host && server.connections.iter().any(|connection| connection.port == own.port())
}
