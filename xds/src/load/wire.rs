//! Loads as they travel.

use std::{net::SocketAddr, time::Duration};

use super::{ClusterLoad, ClusterStats, EndpointLoad};
use crate::pb::{
    envoy::config::{
        core::v3::{
            Address, SocketAddress,
            address::Address as AddressKind,
            socket_address::{PortSpecifier, Protocol},
        },
        endpoint::v3::{EndpointLoadMetricStats, UpstreamEndpointStats, UpstreamLocalityStats},
    },
    google::protobuf::Duration as PbDuration,
};

/// The load metric under which the durations of ended requests are reported, in seconds.
pub const LATENCY_METRIC: &str = "weft.request_seconds";

/// A report as it travels; without `per_endpoint` only sums per locality.
pub fn to_stats(load: &ClusterLoad, per_endpoint: bool) -> ClusterStats {
    let mut localities: Vec<UpstreamLocalityStats> = Vec::new();
    for endpoint in &load.endpoints {
        let position = localities.iter().position(|stats| stats.locality == endpoint.locality);
        let position = position.unwrap_or_else(|| {
            localities
                .push(UpstreamLocalityStats { locality: endpoint.locality.clone(), ..Default::default() });
            localities.len() - 1
        });
        add(&mut localities[position], endpoint, per_endpoint);
    }
    ClusterStats {
        cluster_name: load.cluster.clone(),
        cluster_service_name: load.service.clone(),
        upstream_locality_stats: localities,
        total_dropped_requests: load.dropped,
        load_report_interval: Some(PbDuration {
            seconds: i64::try_from(load.interval.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(load.interval.subsec_nanos()).unwrap_or_default(),
        }),
        ..Default::default()
    }
}

/// What a report says; one entry without address per locality where it does not tell endpoints apart.
pub fn from_stats(stats: &ClusterStats) -> ClusterLoad {
    ClusterLoad {
        cluster: stats.cluster_name.clone(),
        service: stats.cluster_service_name.clone(),
        dropped: stats.total_dropped_requests,
        interval: stats.load_report_interval.as_ref().map(duration).unwrap_or_default(),
        endpoints: stats.upstream_locality_stats.iter().flat_map(endpoints).collect(),
    }
}

/// A duration from the wire; negative ones, which have no meaning here, count as none.
pub(super) fn duration(duration: &PbDuration) -> Duration {
    let seconds = u64::try_from(duration.seconds).unwrap_or_default();
    Duration::from_secs(seconds)
        .saturating_add(Duration::from_nanos(u64::try_from(duration.nanos).unwrap_or_default()))
}

fn add(stats: &mut UpstreamLocalityStats, endpoint: &EndpointLoad, per_endpoint: bool) {
    stats.total_issued_requests += endpoint.issued;
    stats.total_successful_requests += endpoint.succeeded;
    stats.total_error_requests += endpoint.errored;
    stats.total_requests_in_progress += endpoint.in_progress;
    match stats.load_metric_stats.first_mut() {
        Some(latency) => {
            latency.num_requests_finished_with_metric += endpoint.succeeded + endpoint.errored;
            latency.total_metric_value += endpoint.latency.as_secs_f64();
        }
        None => stats.load_metric_stats.push(latency(endpoint)),
    }
    if per_endpoint {
        stats.upstream_endpoint_stats.push(UpstreamEndpointStats {
            address: endpoint.address.map(address),
            total_issued_requests: endpoint.issued,
            total_successful_requests: endpoint.succeeded,
            total_error_requests: endpoint.errored,
            total_requests_in_progress: endpoint.in_progress,
            load_metric_stats: vec![latency(endpoint)],
            ..Default::default()
        });
    }
}

fn endpoints(stats: &UpstreamLocalityStats) -> Vec<EndpointLoad> {
    let one = |address, issued, succeeded, errored, in_progress, metrics: &[EndpointLoadMetricStats]| {
        EndpointLoad {
            address,
            locality: stats.locality.clone(),
            issued,
            succeeded,
            errored,
            in_progress,
            latency: latency_of(metrics),
        }
    };
    if stats.upstream_endpoint_stats.is_empty() {
        return vec![one(
            None,
            stats.total_issued_requests,
            stats.total_successful_requests,
            stats.total_error_requests,
            stats.total_requests_in_progress,
            &stats.load_metric_stats,
        )];
    }
    let endpoint = |endpoint: &UpstreamEndpointStats| {
        one(
            endpoint.address.as_ref().and_then(socket_address),
            endpoint.total_issued_requests,
            endpoint.total_successful_requests,
            endpoint.total_error_requests,
            endpoint.total_requests_in_progress,
            &endpoint.load_metric_stats,
        )
    };
    stats.upstream_endpoint_stats.iter().map(endpoint).collect()
}

fn latency(endpoint: &EndpointLoad) -> EndpointLoadMetricStats {
    EndpointLoadMetricStats {
        metric_name: LATENCY_METRIC.to_owned(),
        num_requests_finished_with_metric: endpoint.succeeded + endpoint.errored,
        total_metric_value: endpoint.latency.as_secs_f64(),
    }
}

fn latency_of(metrics: &[EndpointLoadMetricStats]) -> Duration {
    let metric = metrics.iter().find(|metric| metric.metric_name == LATENCY_METRIC);
    // Negative, infinite and not-a-number come from a broken peer only.
    metric.and_then(|metric| Duration::try_from_secs_f64(metric.total_metric_value).ok()).unwrap_or_default()
}

fn address(address: SocketAddr) -> Address {
    let socket_address = SocketAddress {
        protocol: Protocol::Tcp.into(),
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    Address { address: Some(AddressKind::SocketAddress(socket_address)) }
}

fn socket_address(address: &Address) -> Option<SocketAddr> {
    let AddressKind::SocketAddress(socket) = address.address.as_ref()? else { return None };
    let PortSpecifier::PortValue(port) = socket.port_specifier.as_ref()? else { return None };
    Some(SocketAddr::new(socket.address.parse().ok()?, u16::try_from(*port).ok()?))
}
