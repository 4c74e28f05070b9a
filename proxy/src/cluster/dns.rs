//! Clusters whose endpoints come from the name system.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ServerOrderingStrategy},
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};
use tokio::time::Instant;

use super::{
    Cluster,
    endpoint::{EndpointSet, HostConfig},
};
use crate::config::endpoint::{Assignment, NamedHost};

/// How names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DnsConfig {
    pub(crate) assignment: Assignment<NamedHost>,
    /// Only the first address counts (`LOGICAL_DNS`).
    pub(crate) logical: bool,
    pub(crate) family: Family,
    pub(crate) refresh: Duration,
    pub(crate) respect_ttl: bool,
    pub(crate) resolver: Resolver,
}

/// Whom is asked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// Instead of those of the system, if there are any.
    pub(crate) servers: Vec<SocketAddr>,
    /// `servers` are only for a system that names none.
    pub(crate) fallback: bool,
    /// Begins each time with another server.
    pub(crate) rotate: bool,
    /// Asks over TCP from the start.
    pub(crate) tcp: bool,
    /// Tries the domains that the system names, too.
    pub(crate) search: bool,
    /// For one server to answer one question; `None` is what the system says.
    pub(crate) timeout: Option<Duration>,
    pub(crate) tries: Option<u32>,
    /// The largest answer over UDP, if it is to be said.
    pub(crate) largest: Option<u16>,
}

/// Which addresses are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    PreferV4,
    PreferV6,
    All,
}

/// The shortest wait between two lookups, whatever a record says.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// Keeps the endpoints of a cluster in step with the name system, until the cluster is gone.
///
/// A lookup that fails changes nothing: the last good addresses are better than none.
pub(crate) async fn run(cluster: Weak<Cluster>, config: DnsConfig) {
    let mut resolver = None;
    loop {
        if resolver.is_none() {
            match build(&config) {
                Ok(new) => resolver = Some(new),
                Err(error) => tracing::warn!(%error, "cannot set up name resolution"),
            }
        }
        let mut next = config.refresh;
        if let Some(resolver) = &resolver {
            let (hosts, ttl) = resolve(resolver, &config).await;
            let Some(cluster) = cluster.upgrade() else { return };
            match hosts {
                Some(hosts) => {
                    let set = EndpointSet::new(&hosts, &cluster.endpoints.load())
                        .with_overprovisioning(config.assignment.overprovisioning);
                    cluster.replace_endpoints(set);
                }
                None => {
                    tracing::debug!(cluster = %cluster.name, "names not resolved, the last addresses stay")
                }
            }
            if config.respect_ttl {
                next = ttl.unwrap_or(config.refresh).max(MIN_REFRESH);
            }
        }
        tokio::time::sleep(next).await;
        if cluster.strong_count() == 0 {
            return;
        }
    }
}

/// All endpoints and the shortest life of a record, or no endpoints if a name could not be resolved.
async fn resolve(
    resolver: &TokioResolver,
    config: &DnsConfig,
) -> (Option<Vec<HostConfig>>, Option<Duration>) {
    let mut hosts = Vec::new();
    let mut shortest: Option<Duration> = None;
    for named in &config.assignment.hosts {
        let mut addresses = Vec::new();
        match named.host.parse() {
            Ok(ip) => addresses.push(ip),
            Err(_) => match resolver.lookup_ip(named.host.as_str()).await {
                Ok(found) => {
                    addresses.extend(found.iter());
                    let ttl = found.valid_until().saturating_duration_since(Instant::now().into_std());
                    shortest = Some(shortest.map_or(ttl, |shortest| shortest.min(ttl)));
                }
                Err(error) => {
                    tracing::debug!(host = %named.host, %error, "cannot resolve");
                    return (None, None);
                }
            },
        }
        if config.logical {
            addresses.truncate(1);
        }
        hosts.extend(addresses.into_iter().map(|ip| HostConfig {
            address: SocketAddr::new(ip, named.port),
            hostname: if named.hostname.is_empty() { named.host.clone() } else { named.hostname.clone() },
            weight: named.weight,
            status: named.status,
            priority: named.priority,
            zone: Arc::clone(&named.zone),
            locality_weight: named.locality_weight,
            labels: Arc::clone(&named.labels),
        }));
    }
    (Some(hosts), shortest)
}

fn build(config: &DnsConfig) -> Result<TokioResolver, NetError> {
    let Resolver { servers, fallback, rotate, tcp, search, timeout, tries, largest } = &config.resolver;
    // With servers of its own, a cluster does not depend on what the system says.
    let (system, mut options) = match read_system_conf() {
        Err(error) if servers.is_empty() => return Err(error),
        read => read.unwrap_or_default(),
    };
    let (domain, domains, mut named) = system.into_parts();
    if !servers.is_empty() && (!*fallback || named.is_empty()) {
        named = servers.iter().map(|server| name_server(*server, *tcp)).collect();
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    } else if *tcp {
        for server in &mut named {
            server.connections.retain(|connection| connection.protocol == ConnectionConfig::tcp().protocol);
        }
    }
    options.timeout = timeout.unwrap_or(options.timeout);
    // There they are those after the first.
    options.attempts = tries.map_or(options.attempts, |tries| tries.saturating_sub(1) as usize);
    if *rotate {
        options.server_ordering_strategy = ServerOrderingStrategy::RoundRobin;
    }
    if let Some(largest) = largest {
        (options.edns0, options.edns_payload_len) = (true, *largest);
    }
    options.ip_strategy = match config.family {
        Family::V4 => LookupIpStrategy::Ipv4Only,
        Family::V6 => LookupIpStrategy::Ipv6Only,
        Family::PreferV4 => LookupIpStrategy::Ipv4thenIpv6,
        Family::PreferV6 => LookupIpStrategy::Ipv6thenIpv4,
        Family::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    // The refresh interval is the only memory: a cached answer would make it longer.
    options.cache_size = 0;
    let (domain, domains) = if *search { (domain, domains) } else { (None, Vec::new()) };
    let known = ResolverConfig::from_parts(domain, domains, named);
    let mut builder = TokioResolver::builder_with_config(known, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn name_server(address: SocketAddr, tcp: bool) -> NameServerConfig {
    let mut server =
        if tcp { NameServerConfig::tcp(address.ip()) } else { NameServerConfig::udp_and_tcp(address.ip()) };
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}
