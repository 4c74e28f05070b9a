//! Compiling where names are asked for.

use std::time::Duration;

use weft_xds::{
    any,
    pb::envoy::{
        config::{
            cluster::v3::Cluster as ProtoCluster,
            core::v3::{Address, DnsResolverOptions, TypedExtensionConfig},
        },
        extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig,
    },
};

use super::{ConfigError, Path, unsupported, value};
use crate::cluster::dns::Resolver;

/// Envoy's, where the extension does not say otherwise.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const QUERY_TRIES: u32 = 4;

/// The resolver of a cluster; the first of the three ways to name one that is used counts, as in Envoy.
pub(crate) fn compile(path: &Path, message: &ProtoCluster) -> Result<Resolver, ConfigError> {
    if let Some(config) = &message.typed_dns_resolver_config {
        return typed(&path.field("typed_dns_resolver_config"), config);
    }
    #[expect(deprecated, reason = "older configurations still use this")]
    let older = message.dns_resolution_config.as_ref();
    let Some(config) = older else { return Ok(Resolver::default()) };
    let path = path.field("dns_resolution_config");
    if config.resolvers.is_empty() {
        return Err(path.field("resolvers").missing());
    }
    let mut resolver = Resolver { servers: servers(&path, &config.resolvers)?, ..named() };
    options(&mut resolver, config.dns_resolver_options.as_ref());
    Ok(resolver)
}

fn typed(path: &Path, config: &TypedExtensionConfig) -> Result<Resolver, ConfigError> {
    let path = path.field("typed_config");
    let config = config.typed_config.as_ref().ok_or_else(|| path.missing())?;
    let message = value::unpacked(&path, any::unpack::<CaresDnsResolverConfig>(config))?;
    // What is about the life of sockets needs no setting: each question has a socket of its own.
    unsupported!(path, message; filter_unroutable_families);
    if message.qcache_max_ttl.as_ref().is_some_and(|seconds| seconds.value > 0) {
        return Err(path.field("qcache_max_ttl").unsupported());
    }
    let mut resolver = Resolver {
        servers: servers(&path, &message.resolvers)?,
        fallback: message.use_resolvers_as_fallback,
        rotate: message.rotate_nameservers,
        ..named()
    };
    if let Some(seconds) = &message.query_timeout_seconds {
        resolver.timeout = Some(Duration::from_secs(seconds.value)).filter(|timeout| !timeout.is_zero());
        if resolver.timeout.is_none() {
            return Err(path.field("query_timeout_seconds").error("must be at least 1"));
        }
    }
    if let Some(tries) = &message.query_tries {
        resolver.tries = Some(tries.value).filter(|tries| *tries > 0);
        if resolver.tries.is_none() {
            return Err(path.field("query_tries").error("must be at least 1"));
        }
    }
    if let Some(size) = &message.edns0_max_payload_size {
        let allowed = u16::try_from(size.value).ok().filter(|size| (512..=4096).contains(size));
        resolver.largest = Some(
            allowed
                .ok_or_else(|| path.field("edns0_max_payload_size").error("must be between 512 and 4096"))?,
        );
    }
    options(&mut resolver, message.dns_resolver_options.as_ref());
    Ok(resolver)
}

/// What Envoy does where somebody names a resolver and says no more.
fn named() -> Resolver {
    Resolver { timeout: Some(QUERY_TIMEOUT), tries: Some(QUERY_TRIES), ..Resolver::default() }
}

fn servers(path: &Path, addresses: &[Address]) -> Result<Vec<std::net::SocketAddr>, ConfigError> {
    let one = |(index, address)| value::socket_address(&path.item("resolvers", index), Some(address));
    addresses.iter().enumerate().map(one).collect()
}

fn options(resolver: &mut Resolver, options: Option<&DnsResolverOptions>) {
    if let Some(options) = options {
        resolver.tcp = options.use_tcp_for_dns_lookups;
        resolver.search = !options.no_default_search_domain;
    }
}

// === impl Resolver ===

impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            fallback: false,
            rotate: false,
            tcp: false,
            search: true,
            timeout: None,
            tries: None,
            largest: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_xds::json::{Format, parse_bootstrap};

    use super::*;

    fn compiled(cluster: Value) -> Result<Resolver, String> {
        let bootstrap = json!({"static_resources": {"clusters": [cluster]}}).to_string();
        let bootstrap = parse_bootstrap(&bootstrap, Format::Json).map_err(|error| error.to_string())?;
        let cluster = &bootstrap.static_resources.unwrap_or_default().clusters[0];
        compile(&Path::root("c"), cluster).map_err(|error| error.to_string())
    }

    fn cares(fields: Value) -> Value {
        let mut config = fields;
        config["@type"] =
            "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
                .into();
        json!({"name": "c", "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": config}})
    }

    fn server() -> Value {
        json!({"socket_address": {"address": "127.0.0.1", "port_value": 5353}})
    }

    #[test]
    fn both_ways_to_name_a_name_server_mean_the_same() {
        let options = json!({"use_tcp_for_dns_lookups": true, "no_default_search_domain": true});
        let fields = json!({"resolvers": [server()], "dns_resolver_options": options});
        let wanted =
            Resolver { servers: vec![([127, 0, 0, 1], 5353).into()], tcp: true, search: false, ..named() };
        assert_eq!(compiled(cares(fields.clone())), Ok(wanted.clone()));
        assert_eq!(compiled(json!({"name": "c", "dns_resolution_config": fields})), Ok(wanted));
        assert_eq!(compiled(json!({"name": "c"})), Ok(Resolver::default()));
    }

    #[test]
    fn what_is_not_there_or_not_allowed_is_named() {
        for (fields, named) in [
            (json!({"filter_unroutable_families": true}), "filter_unroutable_families"),
            (json!({"qcache_max_ttl": 5}), "qcache_max_ttl"),
            (json!({"query_tries": 0}), "query_tries"),
            (json!({"query_timeout_seconds": 0}), "query_timeout_seconds"),
            (json!({"edns0_max_payload_size": 100}), "edns0_max_payload_size"),
            (
                json!({"resolvers": [server(), {"socket_address": {"address": "dns", "port_value": 53}}]}),
                "resolvers[1]",
            ),
        ] {
            let error = compiled(cares(fields)).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
        let error = compiled(json!({"name": "c", "dns_resolution_config": {}})).expect_err("no servers");
        assert!(error.contains("dns_resolution_config.resolvers"), "{error}");
    }
}
