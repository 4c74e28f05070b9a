//! Compiling clusters.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use weft_xds::{
    ResourceType, any,
    pb::envoy::{
        config::{
            cluster::v3::{
                Cluster as ProtoCluster,
                cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbConfig},
            },
            core::v3::{HttpProtocolOptions as CommonOptions, RoutingPriority},
        },
        extensions::upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
        },
    },
};

use super::{
    ConfigError, Path, balance, breaker, dns_resolver, endpoint, health, http2, names::Names, outlier,
    servers::Servers, source::Source, unsupported, upstream_socket, value,
};
use crate::{
    balance::Rotation,
    cluster::{
        Cluster, Discovery, Keepalive, UpstreamProtocol,
        breaker::Breaker,
        dns::{DnsConfig, Family},
        endpoint::EndpointSet,
        outlier::Outlier,
    },
    http::h2::Http2Settings,
    worker::Shared,
};

/// Name of the extension options that say what is spoken with a cluster.
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Idle connections are closed before most servers close them: five seconds are common, ours use fifteen.
const POOL_IDLE: Duration = Duration::from_secs(10);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What is spoken, with the limits that belong to it.
struct Protocol {
    protocol: UpstreamProtocol,
    http2: Http2Settings,
    idle_timeout: Option<Duration>,
    max_requests: Option<u32>,
}

/// Compiles a cluster. Of `before`, the version that it replaces, the endpoints are kept that are the same.
pub(crate) fn compile(
    path: &Path,
    message: &ProtoCluster,
    shared: &Shared,
    names: &mut Names,
    before: Option<&Cluster>,
) -> Result<Cluster, ConfigError> {
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    unsupported!(path, message; transport_socket_matches, transport_socket_matcher,
        upstream_bind_config, filters, upstream_config, preconnect_policy,
        connection_pool_per_downstream_connection, queuing_policies, close_connections_on_host_health_failure);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; upstream_http_protocol_options, dns_resolvers, use_tcp_for_dns_lookups,
            dns_jitter);
    }
    let stat_name = if message.alt_stat_name.is_empty() { &message.name } else { &message.alt_stat_name };
    let discovery = discovery(path, message, &names.servers)?;
    let protocol = protocol(path, message)?;
    let socket_path = path.field("transport_socket");
    let socket =
        upstream_socket::compile(&socket_path, message.transport_socket.as_ref(), &mut names.secrets)?;
    if socket.proxy_protocol.is_some() && protocol.protocol != UpstreamProtocol::Http1 {
        // One connection would have to be between as many as have requests on it.
        return Err(socket_path.error("the PROXY protocol is only supported with HTTP/1 and TCP upstreams"));
    }
    let endpoints = match (&discovery, before.map(|before| (&before.discovery, before.endpoints.load()))) {
        (Discovery::Static, before) => {
            let before = before.map_or_else(Default::default, |(_, set)| Arc::clone(&set));
            match &message.load_assignment {
                Some(assignment) => endpoint::compile(&path.field("load_assignment"), assignment, &before)?,
                None => EndpointSet::new(&[], &before),
            }
        }
        // Discovered endpoints outlive a change of the cluster's other settings.
        (discovery, Some((previous, set))) if discovery == previous => EndpointSet::clone(&set),
        _ => EndpointSet::default(),
    };
    let balancing = balance::compile(path, message)?;
    let rotation = Rotation::new(&balancing, &endpoints, None);
    let keepalive =
        message.upstream_connection_options.as_ref().and_then(|options| options.tcp_keepalive.as_ref());
    let seconds = |value: Option<&weft_xds::pb::google::protobuf::UInt32Value>| {
        value.map(|value| Duration::from_secs(u64::from(value.value)))
    };
    let limits = |priority| {
        breaker::limits(&path.field("circuit_breakers"), message.circuit_breakers.as_ref(), priority)
    };
    let health_checks = message
        .health_checks
        .iter()
        .enumerate()
        .map(|(index, check)| health::compile(&path.item("health_checks", index), check, names))
        .collect::<Result<Vec<_>, _>>()?;
    // Where discovery is a list that may be wrong for a moment, an endpoint that answers is believed more than it.
    let keeps_healthy = !health_checks.is_empty()
        && !message.ignore_health_on_host_removal
        && matches!(&discovery, Discovery::Eds { .. } | Discovery::Dns(DnsConfig { logical: false, .. }));
    let known = before.map(|before| before.endpoints.load_full()).unwrap_or_default();
    let compiled = Cluster {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        name: message.name.as_str().into(),
        discovery,
        connect_timeout: value::maybe_duration(
            &path.field("connect_timeout"),
            message.connect_timeout.as_ref(),
        )?
        .filter(|timeout| !timeout.is_zero())
        .unwrap_or(Duration::from_secs(5)),
        protocol: protocol.protocol,
        http2: protocol.http2,
        balancing,
        idle_timeout: protocol.idle_timeout,
        max_requests_per_connection: protocol.max_requests,
        keepalive: keepalive.map(|keepalive| Keepalive {
            time: seconds(keepalive.keepalive_time.as_ref()),
            interval: seconds(keepalive.keepalive_interval.as_ref()),
            probes: keepalive.keepalive_probes.as_ref().map(|probes| probes.value),
        }),
        tls: socket.tls,
        proxy_protocol: socket.proxy_protocol,
        breaker: Breaker::new(limits(RoutingPriority::Default)?),
        breaker_high: Breaker::new(limits(RoutingPriority::High)?),
        outlier: message
            .outlier_detection
            .as_ref()
            .map(|config| outlier::compile(&path.field("outlier_detection"), config))
            .transpose()?
            .map(|settings| Outlier::new(settings, shared.registry.outlier(stat_name))),
        health_checks,
        endpoints: ArcSwap::from_pointee(endpoints),
        rotation: ArcSwap::from_pointee(rotation),
        changed: Arc::default(),
        arrivals: Arc::default(),
        keeps_healthy,
        changing: Default::default(),
        refreshing: Default::default(),
        stats: shared.registry.cluster(stat_name),
        local: shared.local.clone(),
        upkeep: Default::default(),
    };
    compiled.expect_checks(&compiled.endpoints.load(), &known);
    Ok(compiled)
}

fn discovery(path: &Path, message: &ProtoCluster, servers: &Servers) -> Result<Discovery, ConfigError> {
    let kind = match &message.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(*kind).map_err(|_| path.field("type").error("is not a known value"))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => return Err(path.field("cluster_type").unsupported()),
    };
    let dns = |logical: bool| -> Result<Discovery, ConfigError> {
        let assignment =
            message.load_assignment.as_ref().ok_or_else(|| path.field("load_assignment").missing())?;
        let path_of = path.field("load_assignment");
        let assignment = endpoint::named(&path_of, assignment)?;
        if logical && assignment.hosts.len() != 1 {
            return Err(path_of.error("LOGICAL_DNS must have exactly one endpoint"));
        }
        #[expect(deprecated, reason = "there is no other way to say it but an extension of its own")]
        let (refresh, respect_ttl) = (&message.dns_refresh_rate, message.respect_dns_ttl);
        let refresh = value::maybe_duration(&path.field("dns_refresh_rate"), refresh.as_ref())?;
        let family = match DnsLookupFamily::try_from(message.dns_lookup_family) {
            Ok(DnsLookupFamily::V4Only) => Family::V4,
            Ok(DnsLookupFamily::V6Only) => Family::V6,
            Ok(DnsLookupFamily::Auto) => Family::PreferV6,
            Ok(DnsLookupFamily::V4Preferred) => Family::PreferV4,
            Ok(DnsLookupFamily::All) => Family::All,
            Err(_) => return Err(path.field("dns_lookup_family").error("is not a known value")),
        };
        let refresh = refresh.filter(|refresh| !refresh.is_zero()).unwrap_or(Duration::from_secs(5));
        let resolver = dns_resolver::compile(path, message)?;
        Ok(Discovery::Dns(DnsConfig { assignment, logical, family, refresh, respect_ttl, resolver }))
    };
    match kind {
        DiscoveryType::Static => Ok(Discovery::Static),
        DiscoveryType::Eds => {
            let service =
                message.eds_cluster_config.as_ref().map_or("", |config| config.service_name.as_str());
            let service_name = if service.is_empty() { message.name.clone() } else { service.to_owned() };
            let source = message.eds_cluster_config.as_ref().and_then(|config| config.eds_config.as_ref());
            let path = path.field("eds_cluster_config");
            let source = Source::of(
                &path,
                ("service_name", &service_name),
                ("eds_config", source),
                ResourceType::ClusterLoadAssignment,
                servers,
            )?;
            Ok(Discovery::Eds { service_name, source })
        }
        DiscoveryType::StrictDns => dns(false),
        DiscoveryType::LogicalDns => dns(true),
        DiscoveryType::OriginalDst => {
            let mut port_override = None;
            if let Some(LbConfig::OriginalDstLbConfig(config)) = &message.lb_config {
                let path = path.field("original_dst_lb_config");
                unsupported!(path, config; use_http_header, http_header_name, metadata_key);
                port_override = config
                    .upstream_port_override
                    .as_ref()
                    .map(|port| {
                        u16::try_from(port.value)
                            .map_err(|_| path.field("upstream_port_override").error("must be at most 65535"))
                    })
                    .transpose()?;
            }
            Ok(Discovery::OriginalDst { port_override })
        }
    }
}

fn protocol(path: &Path, message: &ProtoCluster) -> Result<Protocol, ConfigError> {
    let mut result = Protocol {
        protocol: UpstreamProtocol::Http1,
        http2: Http2Settings::upstream(),
        idle_timeout: Some(POOL_IDLE),
        max_requests: None,
    };
    #[expect(deprecated, reason = "older configurations still use these")]
    {
        if let Some(options) = &message.http2_protocol_options {
            result.protocol = UpstreamProtocol::Http2;
            result.http2 = http2::upstream(&path.field("http2_protocol_options"), options)?;
        }
        if let Some(options) = &message.http_protocol_options {
            http1(&path.field("http_protocol_options"), options)?;
        }
        if let Some(options) = &message.common_http_protocol_options {
            result.common(&path.field("common_http_protocol_options"), options)?;
        }
        result.max_requests =
            message.max_requests_per_connection.as_ref().map(|max| max.value).filter(|max| *max > 0);
        if message.protocol_selection != 0 {
            result.protocol = UpstreamProtocol::Downstream;
        }
    }
    for (name, options) in &message.typed_extension_protocol_options {
        let path = path.field("typed_extension_protocol_options").field(name);
        if name != PROTOCOL_OPTIONS {
            return Err(path.unsupported());
        }
        let options = value::unpacked(&path, any::unpack::<HttpProtocolOptions>(options))?;
        unsupported!(path, options; upstream_http_protocol_options, header_validation_config, outlier_detection,
            request_mirror_policies, hash_policy, retry_policy);
        for (index, filter) in options.http_filters.iter().enumerate() {
            if filter.name != "envoy.filters.http.upstream_codec" {
                return Err(path.item("http_filters", index).unsupported());
            }
        }
        if let Some(common) = &options.common_http_protocol_options {
            result.common(&path.field("common_http_protocol_options"), common)?;
        }
        match &options.upstream_protocol_options {
            None => {}
            Some(UpstreamProtocolOptions::AutoConfig(_)) => {
                return Err(path.field("auto_config").unsupported());
            }
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
                let path = path.field("use_downstream_protocol_config");
                unsupported!(path, config; http3_protocol_options);
                result.protocol = UpstreamProtocol::Downstream;
                if let Some(options) = &config.http_protocol_options {
                    http1(&path.field("http_protocol_options"), options)?;
                }
                if let Some(options) = &config.http2_protocol_options {
                    result.http2 = http2::upstream(&path.field("http2_protocol_options"), options)?;
                }
            }
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
                let path = path.field("explicit_http_config");
                match &config.protocol_config {
                    None => {}
                    Some(ProtocolConfig::HttpProtocolOptions(options)) => {
                        result.protocol = UpstreamProtocol::Http1;
                        http1(&path.field("http_protocol_options"), options)?;
                    }
                    Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                        result.protocol = UpstreamProtocol::Http2;
                        result.http2 = http2::upstream(&path.field("http2_protocol_options"), options)?;
                    }
                    Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                        return Err(path.field("http3_protocol_options").unsupported());
                    }
                }
            }
        }
    }
    Ok(result)
}

/// Checks HTTP/1 options; what they could change is either done always or refused.
pub(super) fn http1(
    path: &Path,
    options: &weft_xds::pb::envoy::config::core::v3::Http1ProtocolOptions,
) -> Result<(), ConfigError> {
    unsupported!(path, options; default_host_for_http_10, header_key_format, allow_chunked_length,
        override_stream_error_on_invalid_http_message, send_fully_qualified_url, ignore_http_11_upgrade);
    // RFC 9112 3.2.2: a server must accept the absolute form.
    if options.allow_absolute_url.as_ref().is_some_and(|allow| !allow.value) {
        return Err(path.field("allow_absolute_url").error("false is not supported"));
    }
    Ok(())
}

// === impl Protocol ===

impl Protocol {
    fn common(&mut self, path: &Path, options: &CommonOptions) -> Result<(), ConfigError> {
        unsupported!(path, options; max_connection_duration, max_connection_duration_jitter, max_headers_count,
            max_response_headers_kb, max_stream_duration, headers_with_underscores_action);
        self.idle_timeout =
            value::limit(&path.field("idle_timeout"), options.idle_timeout.as_ref(), Some(POOL_IDLE))?;
        if let Some(max) = &options.max_requests_per_connection {
            self.max_requests = Some(max.value).filter(|max| *max > 0);
        }
        Ok(())
    }
}
