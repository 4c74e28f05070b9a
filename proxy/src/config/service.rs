//! Compiling references to services that filters ask: `GrpcService` and `HttpUri`.

use std::{sync::Arc, time::Duration};

use weft_xds::pb::envoy::config::core::v3::{
    ApiVersion, GrpcService as Proto, HttpUri, grpc_service::TargetSpecifier, http_uri,
};

use super::{ConfigError, Path, names::Names, unsupported, value};
use crate::{callout::grpc::GrpcService, cluster::ClusterSlot, http::h1::parse::is_authority};

/// The version of a service's messages, which is always 3.
pub(crate) fn api_version(path: &Path, version: i32) -> Result<(), ConfigError> {
    match ApiVersion::try_from(version) {
        Ok(ApiVersion::Auto | ApiVersion::V3) => Ok(()),
        _ => Err(path.field("transport_api_version").error("only V3 is supported")),
    }
}

/// A gRPC service; without a timeout of its own it has `timeout`.
pub(crate) fn grpc(
    path: &Path,
    message: &Proto,
    timeout: Duration,
    names: &mut Names,
) -> Result<GrpcService, ConfigError> {
    unsupported!(path, message; retry_policy);
    let target = match &message.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => target,
        Some(TargetSpecifier::GoogleGrpc(_)) => return Err(path.field("google_grpc").unsupported()),
        None => return Err(path.field("envoy_grpc").missing()),
    };
    let limit = value::limit(&path.field("timeout"), message.timeout.as_ref(), Some(timeout))?;
    let mut metadata = Vec::new();
    for (index, field) in message.initial_metadata.iter().enumerate() {
        metadata.push(value::plain_field(&path.item("initial_metadata", index), field)?);
    }
    let path = path.field("envoy_grpc");
    // That is for streams of configuration only.
    unsupported!(path, target; retry_policy);
    if target.cluster_name.is_empty() {
        return Err(path.field("cluster_name").missing());
    }
    let authority = if target.authority.is_empty() { &target.cluster_name } else { &target.authority };
    if !target.authority.is_empty() && !is_authority(authority.as_bytes()) {
        return Err(path.field("authority").error(format!("{authority:?} is not a host")));
    }
    Ok(GrpcService {
        cluster: names.cluster_if_any(&target.cluster_name),
        authority: authority.clone().into_bytes(),
        timeout: limit,
        metadata,
        largest: target
            .max_receive_message_length
            .map(|limit| limit.value as usize)
            .filter(|limit| *limit > 0),
        envoy_fields: !target.skip_envoy_headers,
    })
}

/// The cluster of an HTTP service, and how long it is asked.
pub(crate) fn http(
    path: &Path,
    message: &HttpUri,
    names: &mut Names,
) -> Result<(Arc<ClusterSlot>, Option<Duration>), ConfigError> {
    if message.uri.is_empty() {
        return Err(path.field("uri").missing());
    }
    let cluster = match &message.http_upstream_type {
        Some(http_uri::HttpUpstreamType::Cluster(name)) if !name.is_empty() => name,
        _ => return Err(path.field("cluster").missing()),
    };
    if message.timeout.is_none() {
        return Err(path.field("timeout").missing());
    }
    let timeout = value::limit(&path.field("timeout"), message.timeout.as_ref(), None)?;
    Ok((names.cluster_if_any(cluster), timeout))
}
