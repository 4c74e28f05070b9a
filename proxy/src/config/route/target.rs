//! Which cluster a route sends requests to.

use std::sync::Arc;

use weft_xds::pb::envoy::config::route::v3::{
    RouteAction,
    route_action::ClusterSpecifier,
    weighted_cluster::{ClusterWeight, RandomValueSpecifier, cluster_weight::HostRewriteSpecifier},
};

use super::{levels, rewrite};
use crate::balance::Criteria;
use crate::cluster::directory::ClusterRef;
use crate::config::{ConfigError, Path, labels, names::Names, value};
use crate::filter::{Overrides, config as filter};
use crate::route::{HostRewrite, Target, WeightedCluster};

pub(super) fn compile(
    path: &Path,
    message: &RouteAction,
    criteria: Option<&Arc<Criteria>>,
    names: &mut Names,
) -> Result<Target, ConfigError> {
    match message.cluster_specifier.as_ref().ok_or_else(|| path.field("cluster").missing())? {
        ClusterSpecifier::Cluster(name) if name.is_empty() => Err(path.field("cluster").missing()),
        ClusterSpecifier::Cluster(name) => Ok(Target::One(ClusterRef::Named(names.cluster(name)))),
        ClusterSpecifier::WeightedClusters(weighted) => {
            let path = path.field("weighted_clusters");
            let by = match &weighted.random_value_specifier {
                None => None,
                Some(RandomValueSpecifier::HeaderName(name)) => Some(name.to_ascii_lowercase().into_bytes()),
                Some(RandomValueSpecifier::UseHashPolicy(hash)) if !hash.value => None,
                Some(RandomValueSpecifier::UseHashPolicy(_)) => {
                    return Err(path.field("use_hash_policy").unsupported());
                }
            };
            let mut clusters = Vec::with_capacity(weighted.clusters.len());
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                let mut compiled = weighted_cluster(&path.item("clusters", index), cluster, criteria, names)?;
                if !weighted.runtime_key_prefix.is_empty() {
                    compiled.key = Some(format!("{}.{}", weighted.runtime_key_prefix, cluster.name).into());
                }
                clusters.push(compiled);
            }
            let total = clusters.iter().try_fold(0u32, |sum, cluster| sum.checked_add(cluster.weight));
            match total {
                Some(total) if total > 0 => Ok(Target::Weighted { total, clusters, by }),
                _ => Err(path.field("clusters").error("the sum of the weights must be from 1 to 4294967295")),
            }
        }
        ClusterSpecifier::ClusterHeader(name) => {
            Ok(Target::One(by_header(&path.field("cluster_header"), name, names)?))
        }
        ClusterSpecifier::ClusterSpecifierPlugin(_) => {
            Err(path.field("cluster_specifier_plugin").unsupported())
        }
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            Err(path.field("inline_cluster_specifier_plugin").unsupported())
        }
    }
}

fn weighted_cluster(
    path: &Path,
    message: &ClusterWeight,
    criteria: Option<&Arc<Criteria>>,
    names: &mut Names,
) -> Result<WeightedCluster, ConfigError> {
    let cluster = by_name_or_header(path, &message.name, &message.cluster_header, names)?;
    let changes = levels::changes!(path, message);
    let host = match &message.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            rewrite::literal_host(&path.field("host_rewrite_literal"), host)?
        }
    };
    Ok(WeightedCluster {
        cluster,
        weight: value::number(message.weight.as_ref(), 0),
        key: None,
        request: levels::single(changes.request),
        response: levels::single(changes.response),
        host,
        criteria: labels::merged(
            criteria.cloned(),
            labels::criteria(&path.field("metadata_match"), message.metadata_match.as_ref())?,
        ),
        overrides: filter::overrides(
            path,
            &message.typed_per_filter_config,
            &Overrides::default(),
            &names.counters,
        )?,
    })
}

/// One of the two must say which cluster is meant.
pub(super) fn by_name_or_header(
    path: &Path,
    name: &str,
    header: &str,
    names: &mut Names,
) -> Result<ClusterRef, ConfigError> {
    match (name, header) {
        ("", "") => Err(path.field("name").missing()),
        (name, "") => Ok(ClusterRef::Named(names.cluster(name))),
        ("", header) => by_header(&path.field("cluster_header"), header, names),
        _ => Err(path.error("a cluster is named, or a field that names it, not both")),
    }
}

fn by_header(path: &Path, name: &str, names: &mut Names) -> Result<ClusterRef, ConfigError> {
    if name.is_empty() {
        return Err(path.missing());
    }
    let field = match name.to_ascii_lowercase() {
        host if host == ":authority" || host == "host" => b":authority".to_vec(),
        other => value::field_name(path, &other)?,
    };
    Ok(ClusterRef::Header { field, directory: Arc::clone(&names.directory) })
}
