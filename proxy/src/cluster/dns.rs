//! Clusters whose endpoints come from the name system.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use tokio::time::Instant;

use super::{
    Cluster,
    endpoint::{EndpointSet, HostConfig},
};
use crate::config::endpoint::NamedHost;

/// How names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DnsConfig {
    pub(crate) hosts: Vec<NamedHost>,
    /// Only the first address counts (`LOGICAL_DNS`).
    pub(crate) logical: bool,
    pub(crate) family: Family,
    pub(crate) refresh: Duration,
    pub(crate) respect_ttl: bool,
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
            match build(config.family) {
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
                    let set = EndpointSet::new(&hosts, &cluster.endpoints.load());
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
    for named in &config.hosts {
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
            zone: Arc::clone(&named.zone),
        }));
    }
    (Some(hosts), shortest)
}

fn build(family: Family) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.ip_strategy = match family {
        Family::V4 => LookupIpStrategy::Ipv4Only,
        Family::V6 => LookupIpStrategy::Ipv6Only,
        Family::PreferV4 => LookupIpStrategy::Ipv4thenIpv6,
        Family::PreferV6 => LookupIpStrategy::Ipv6thenIpv4,
        Family::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    // The refresh interval is the only memory: a cached answer would make it longer.
    options.cache_size = 0;
    builder.build()
}
