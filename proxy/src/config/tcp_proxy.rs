//! Compiling TCP proxies.

use std::time::Duration;

use weft_xds::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy as ProtoTcp, tcp_proxy::ClusterSpecifier,
};

use super::{ConfigError, Path, access_log, labels, names::Names, unsupported, value};
use crate::{
    tcp::{Destination, MaxDuration, TcpProxy},
    worker::Shared,
};

/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn compile(
    path: &Path,
    message: &ProtoTcp,
    shared: &Shared,
    names: &mut Names,
) -> Result<TcpProxy, ConfigError> {
    unsupported!(path, message; on_demand, downstream_idle_timeout, upstream_idle_timeout,
        backoff_options, hash_policy, tunneling_config, access_log_options, proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy, upstream_connect_mode, max_early_data_bytes, check_drain_close);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; access_log_flush_interval, flush_access_log_on_connected);
    }
    let outer = labels::criteria(&path.field("metadata_match"), message.metadata_match.as_ref())?;
    let clusters = match message.cluster_specifier.as_ref().ok_or_else(|| path.field("cluster").missing())? {
        ClusterSpecifier::Cluster(name) if name.is_empty() => return Err(path.field("cluster").missing()),
        ClusterSpecifier::Cluster(name) => {
            vec![Destination { cluster: names.cluster(name), weight: 1, criteria: outer }]
        }
        ClusterSpecifier::WeightedClusters(weighted) => {
            let path = path.field("weighted_clusters");
            let mut clusters = Vec::with_capacity(weighted.clusters.len());
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                let path = path.item("clusters", index).field("metadata_match");
                let inner = labels::criteria(&path, cluster.metadata_match.as_ref())?;
                clusters.push(Destination {
                    cluster: names.cluster(&cluster.name),
                    weight: cluster.weight,
                    criteria: labels::merged(outer.clone(), inner),
                });
            }
            let total = clusters.iter().try_fold(0u32, |sum, cluster| sum.checked_add(cluster.weight));
            if total.is_none_or(|total| total == 0) {
                return Err(path
                    .field("clusters")
                    .error("the sum of the weights must be from 1 to 4294967295"));
            }
            clusters
        }
    };
    Ok(TcpProxy {
        stats: shared.registry.tcp(&message.stat_prefix),
        clusters,
        idle_timeout: value::limit(
            &path.field("idle_timeout"),
            message.idle_timeout.as_ref(),
            Some(IDLE_TIMEOUT),
        )?,
        max_duration: max_duration(path, message)?,
        max_connect_attempts: value::number(message.max_connect_attempts.as_ref(), 1).max(1),
        access_logs: access_log::compile(path, &message.access_log, names)?,
    })
}

fn max_duration(path: &Path, message: &ProtoTcp) -> Result<Option<MaxDuration>, ConfigError> {
    let limit = value::maybe_duration(
        &path.field("max_downstream_connection_duration"),
        message.max_downstream_connection_duration.as_ref(),
    )?;
    let percent = message
        .max_downstream_connection_duration_jitter_percentage
        .as_ref()
        .map_or(0.0, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        return Err(path
            .field("max_downstream_connection_duration_jitter_percentage")
            .error("must be from 0 to 100"));
    }
    Ok(limit
        .filter(|limit| !limit.is_zero())
        .map(|least| MaxDuration { least, jitter: least.mul_f64(percent / 100.0) }))
}
