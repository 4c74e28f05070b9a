//! Compiling clusters.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use weft_xds::{
    any,
    pb::envoy::{
        config::{
            cluster::v3::{
                Cluster as ProtoCluster, OutlierDetection,
                cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbConfig, LbPolicy},
            },
            core::v3::{Http2ProtocolOptions, HttpProtocolOptions as CommonOptions},
        },
        extensions::upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
        },
    },
};

use super::{ConfigError, Path, endpoint, health, unsupported, value};
use crate::{
    balance::Policy,
    cluster::{
        Cluster, Discovery, Http2Settings, Keepalive, UpstreamProtocol,
        breaker::{Breaker, Limits},
        dns::{DnsConfig, Family},
        endpoint::EndpointSet,
        outlier::Outlier,
    },
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
    before: Option<&Cluster>,
) -> Result<Cluster, ConfigError> {
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    unsupported!(path, message; transport_socket_matches, transport_socket_matcher, lb_subset_config,
        upstream_bind_config, transport_socket, filters, load_balancing_policy, upstream_config, preconnect_policy,
        connection_pool_per_downstream_connection, queuing_policies, typed_dns_resolver_config);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; upstream_http_protocol_options, dns_resolvers, use_tcp_for_dns_lookups,
            dns_resolution_config, dns_jitter);
    }
    let discovery = discovery(path, message)?;
    let protocol = protocol(path, message)?;
    let endpoints = match (&discovery, before.map(|before| (&before.discovery, before.endpoints.load()))) {
        (Discovery::Static, before) => {
            let hosts = match &message.load_assignment {
                Some(assignment) => endpoint::compile(&path.field("load_assignment"), assignment)?,
                None => Vec::new(),
            };
            let before = before.map(|(_, set)| set);
            EndpointSet::new(&hosts, before.as_deref().map_or(&EndpointSet::default(), |set| set))
        }
        // Discovered endpoints outlive a change of the cluster's other settings.
        (discovery, Some((previous, set))) if discovery == previous => EndpointSet {
            hosts: set.hosts.clone(),
            eligible: set.eligible.clone(),
            schedule: set.schedule.clone(),
            known: set.known,
        },
        _ => EndpointSet::default(),
    };
    let panic_threshold = match &message.common_lb_config {
        None => 50.0,
        Some(config) => {
            let path = path.field("common_lb_config");
            unsupported!(path, config; consistent_hashing_lb_config, override_host_status,
                ignore_new_hosts_until_first_hc);
            config.healthy_panic_threshold.as_ref().map_or(50.0, |percent| percent.value)
        }
    };
    let keepalive =
        message.upstream_connection_options.as_ref().and_then(|options| options.tcp_keepalive.as_ref());
    let seconds = |value: Option<&weft_xds::pb::google::protobuf::UInt32Value>| {
        value.map(|value| Duration::from_secs(u64::from(value.value)))
    };
    Ok(Cluster {
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
        policy: policy(path, message)?,
        panic_threshold,
        idle_timeout: protocol.idle_timeout,
        max_requests_per_connection: protocol.max_requests,
        keepalive: keepalive.map(|keepalive| Keepalive {
            time: seconds(keepalive.keepalive_time.as_ref()),
            interval: seconds(keepalive.keepalive_interval.as_ref()),
            probes: keepalive.keepalive_probes.as_ref().map(|probes| probes.value),
        }),
        breaker: Breaker::new(limits(path, message)?),
        outlier: message
            .outlier_detection
            .as_ref()
            .map(|config| outlier(&path.field("outlier_detection"), config))
            .transpose()?,
        health_checks: message
            .health_checks
            .iter()
            .enumerate()
            .map(|(index, check)| health::compile(&path.item("health_checks", index), check))
            .collect::<Result<_, _>>()?,
        endpoints: ArcSwap::from_pointee(endpoints),
        stats: shared.registry.cluster(if message.alt_stat_name.is_empty() {
            &message.name
        } else {
            &message.alt_stat_name
        }),
    })
}

fn discovery(path: &Path, message: &ProtoCluster) -> Result<Discovery, ConfigError> {
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
        let hosts = endpoint::named(&path_of, assignment)?;
        if logical && hosts.len() != 1 {
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
        Ok(Discovery::Dns(DnsConfig { hosts, logical, family, refresh, respect_ttl }))
    };
    match kind {
        DiscoveryType::Static => Ok(Discovery::Static),
        DiscoveryType::Eds => {
            let service =
                message.eds_cluster_config.as_ref().map_or("", |config| config.service_name.as_str());
            let service_name = if service.is_empty() { message.name.clone() } else { service.to_owned() };
            Ok(Discovery::Eds { service_name })
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

fn policy(path: &Path, message: &ProtoCluster) -> Result<Policy, ConfigError> {
    match &message.lb_config {
        Some(LbConfig::LeastRequestLbConfig(config)) => {
            let path = path.field("least_request_lb_config");
            unsupported!(path, config; active_request_bias, slow_start_config);
            if config.choice_count.as_ref().is_some_and(|count| count.value != 2) {
                return Err(path.field("choice_count").error("only 2 is supported"));
            }
        }
        Some(LbConfig::RoundRobinLbConfig(config)) => {
            let path = path.field("round_robin_lb_config");
            unsupported!(path, config; slow_start_config);
        }
        Some(LbConfig::OriginalDstLbConfig(_)) | None => {}
        Some(LbConfig::RingHashLbConfig(_)) => return Err(path.field("ring_hash_lb_config").unsupported()),
        Some(LbConfig::MaglevLbConfig(_)) => return Err(path.field("maglev_lb_config").unsupported()),
    }
    match LbPolicy::try_from(message.lb_policy) {
        Ok(LbPolicy::RoundRobin | LbPolicy::ClusterProvided) => Ok(Policy::RoundRobin),
        Ok(LbPolicy::LeastRequest) => Ok(Policy::PeakEwma),
        Ok(LbPolicy::Random) => Ok(Policy::Random),
        Ok(policy) => {
            Err(path.field("lb_policy").error(format!("{} is not supported", policy.as_str_name())))
        }
        Err(_) => Err(path.field("lb_policy").error("is not a known value")),
    }
}

fn protocol(path: &Path, message: &ProtoCluster) -> Result<Protocol, ConfigError> {
    let mut result = Protocol {
        protocol: UpstreamProtocol::Http1,
        http2: Http2Settings::default(),
        idle_timeout: Some(POOL_IDLE),
        max_requests: None,
    };
    #[expect(deprecated, reason = "older configurations still use these")]
    {
        if let Some(options) = &message.http2_protocol_options {
            result.protocol = UpstreamProtocol::Http2;
            result.http2 = http2(&path.field("http2_protocol_options"), options)?;
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
                    result.http2 = http2(&path.field("http2_protocol_options"), options)?;
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
                        result.http2 = http2(&path.field("http2_protocol_options"), options)?;
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
    Ok(())
}

/// Compiles HTTP/2 options.
pub(super) fn http2(path: &Path, options: &Http2ProtocolOptions) -> Result<Http2Settings, ConfigError> {
    unsupported!(path, options; allow_connect, allow_metadata, custom_settings_parameters);
    let defaults = Http2Settings::default();
    let keepalive = match &options.connection_keepalive {
        None => None,
        Some(keepalive) => {
            let path = path.field("connection_keepalive");
            unsupported!(path, keepalive; connection_idle_interval);
            let interval = value::maybe_duration(&path.field("interval"), keepalive.interval.as_ref())?;
            let timeout = value::maybe_duration(&path.field("timeout"), keepalive.timeout.as_ref())?;
            interval.map(|interval| (interval, timeout.unwrap_or(Duration::from_secs(10))))
        }
    };
    Ok(Http2Settings {
        max_concurrent_streams: value::number(
            options.max_concurrent_streams.as_ref(),
            defaults.max_concurrent_streams,
        ),
        stream_window: value::number(options.initial_stream_window_size.as_ref(), defaults.stream_window),
        connection_window: value::number(
            options.initial_connection_window_size.as_ref(),
            defaults.connection_window,
        ),
        keepalive,
    })
}

fn limits(path: &Path, message: &ProtoCluster) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    let Some(breakers) = &message.circuit_breakers else { return Ok(limits) };
    let path = path.field("circuit_breakers");
    unsupported!(path, breakers; per_host_thresholds);
    for (index, thresholds) in breakers.thresholds.iter().enumerate() {
        let path = path.item("thresholds", index);
        unsupported!(path, thresholds; retry_budget, max_connection_pools);
        // Nothing here has the high priority (routes with it are refused), so its thresholds never apply.
        if thresholds.priority != 0 {
            continue;
        }
        let set = |limit: &mut u64, value: Option<&weft_xds::pb::google::protobuf::UInt32Value>| {
            if let Some(value) = value {
                *limit = u64::from(value.value);
            }
        };
        set(&mut limits.connections, thresholds.max_connections.as_ref());
        set(&mut limits.pending, thresholds.max_pending_requests.as_ref());
        set(&mut limits.requests, thresholds.max_requests.as_ref());
        set(&mut limits.retries, thresholds.max_retries.as_ref());
    }
    Ok(limits)
}

fn outlier(path: &Path, message: &OutlierDetection) -> Result<Outlier, ConfigError> {
    unsupported!(path, message; split_external_local_origin_errors, consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure, enforcing_local_origin_success_rate,
        enforcing_failure_percentage_local_origin, max_ejection_time_jitter, monitors, always_eject_one_host,
        detect_degraded_hosts);
    // Zero is "off", which is what we do; anything else would promise an ejection that never comes.
    for (name, value) in [
        ("enforcing_success_rate", &message.enforcing_success_rate),
        ("enforcing_consecutive_gateway_failure", &message.enforcing_consecutive_gateway_failure),
        ("enforcing_failure_percentage", &message.enforcing_failure_percentage),
    ] {
        if value.as_ref().is_some_and(|value| value.value != 0) {
            return Err(path
                .field(name)
                .error("only consecutive_5xx is supported; set this to 0 or leave it out"));
        }
    }
    let enforcing = value::number(message.enforcing_consecutive_5xx.as_ref(), 100);
    if enforcing != 100 && enforcing != 0 {
        return Err(path.field("enforcing_consecutive_5xx").error("only 0 and 100 are supported"));
    }
    let base = value::maybe_duration(&path.field("base_ejection_time"), message.base_ejection_time.as_ref())?
        .unwrap_or(Duration::from_secs(30));
    let max = value::maybe_duration(&path.field("max_ejection_time"), message.max_ejection_time.as_ref())?
        .unwrap_or(Duration::from_secs(300));
    Ok(Outlier {
        consecutive_5xx: if enforcing == 0 {
            u32::MAX
        } else {
            value::number(message.consecutive_5xx.as_ref(), 5).max(1)
        },
        base_ejection: base,
        max_ejection: max.max(base),
        max_percent: value::number(message.max_ejection_percent.as_ref(), 10),
        deciding: false.into(),
    })
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
