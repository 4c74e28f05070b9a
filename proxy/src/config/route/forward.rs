//! Routes that send requests to a cluster.

use std::{sync::Arc, time::Duration};

use weft_xds::pb::envoy::config::{
    core::v3::RoutingPriority,
    route::v3::{
        HedgePolicy, RouteAction,
        route_action::{ClusterNotFoundResponseCode, MaxStreamDuration},
    },
};

use super::{Defaults, internal_redirect, mirror, rewrite, target};
use crate::cluster::breaker::Priority;
use crate::config::{ConfigError, Path, affinity, labels, names::Names, retry, unsupported, value};
use crate::route::{
    Forward,
    duration::{Bound, GrpcLimit, StreamLimit},
};

/// Envoy's default for a whole exchange.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn compile(
    path: &Path,
    message: &RouteAction,
    defaults: &Defaults,
    names: &mut Names,
) -> Result<Forward, ConfigError> {
    unsupported!(path, message; flush_timeout, early_data_policy,
        retry_policy_typed_config);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; cors, max_grpc_timeout, grpc_timeout_offset, internal_redirect_action,
            max_internal_redirects);
    }
    let criteria = labels::criteria(&path.field("metadata_match"), message.metadata_match.as_ref())?;
    let target = target::compile(path, message, criteria.as_ref(), names)?;
    let rewrite = rewrite::path(path, message)?;
    let host = rewrite::host(path, message)?;
    let (mut upgrades, mut terminates_connect) = (Vec::new(), false);
    for (index, upgrade) in message.upgrade_configs.iter().enumerate() {
        let path = path.item("upgrade_configs", index);
        let name = upgrade.upgrade_type.to_ascii_lowercase();
        if let Some(config) = &upgrade.connect_config {
            let path = path.field("connect_config");
            unsupported!(path, config; proxy_protocol_config, allow_post);
            if name != "connect" {
                return Err(path.error("is for the upgrade type CONNECT only"));
            }
            terminates_connect = true;
        }
        upgrades.push((name, upgrade.enabled.as_ref().is_none_or(|enabled| enabled.value)));
    }
    // As in Envoy, a limit on streams takes the place of the default; a timeout that is written is not forgotten over it.
    let default = message.max_stream_duration.is_none().then_some(DEFAULT_TIMEOUT);
    let timeout = value::limit(&path.field("timeout"), message.timeout.as_ref(), default)?;
    let stream_limit = match &message.max_stream_duration {
        Some(limits) => stream_limit(&path.field("max_stream_duration"), limits)?,
        None => StreamLimit::default(),
    };
    let own_retry = message
        .retry_policy
        .as_ref()
        .map(|policy| retry::compile(&path.field("retry_policy"), policy))
        .transpose()?;
    let no_cluster_status =
        match ClusterNotFoundResponseCode::try_from(message.cluster_not_found_response_code) {
            Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => 503,
            Ok(ClusterNotFoundResponseCode::NotFound) => 404,
            Ok(ClusterNotFoundResponseCode::InternalServerError) => 500,
            Err(_) => {
                return Err(path.field("cluster_not_found_response_code").error("is not a known value"));
            }
        };
    let redirects = message.internal_redirect_policy.as_ref();
    let redirects =
        redirects.map(|policy| internal_redirect::compile(&path.field("internal_redirect_policy"), policy));
    let mirrors = match mirror::compile(path, &message.request_mirror_policies, names)? {
        own if own.is_empty() => Arc::clone(&defaults.mirrors),
        own => own.into(),
    };
    Ok(Forward {
        target,
        rewrite,
        host,
        append_forwarded_host: message.append_x_forwarded_host,
        timeout,
        stream_limit,
        idle_timeout: value::limit(&path.field("idle_timeout"), message.idle_timeout.as_ref(), None)?,
        priority: match RoutingPriority::try_from(message.priority) {
            Ok(RoutingPriority::Default) => Priority::Default,
            Ok(RoutingPriority::High) => Priority::High,
            Err(_) => return Err(path.field("priority").error("is not a known value")),
        },
        retry: own_retry.or_else(|| defaults.retry.clone()),
        upgrades,
        terminates_connect,
        no_cluster_status,
        affinity: affinity::compile(path, &message.hash_policy)?,
        notes: defaults.notes,
        internal_redirect: redirects.transpose()?.map(Box::new),
        mirrors,
        hedge_on_timeout: hedging(path, message.hedge_policy.as_ref())?.unwrap_or(defaults.hedge_on_timeout),
        criteria,
    })
}

/// Whether a try that takes too long gets another one beside it; `None` if nothing is said.
pub(super) fn hedging(path: &Path, message: Option<&HedgePolicy>) -> Result<Option<bool>, ConfigError> {
    let Some(policy) = message else { return Ok(None) };
    let path = path.field("hedge_policy");
    unsupported!(path, policy; additional_request_chance);
    if policy.initial_requests.as_ref().is_some_and(|requests| requests.value != 1) {
        return Err(path.field("initial_requests").unsupported());
    }
    Ok(Some(policy.hedge_on_per_try_timeout))
}

fn stream_limit(path: &Path, message: &MaxStreamDuration) -> Result<StreamLimit, ConfigError> {
    let duration = |name: &str, value| value::maybe_duration(&path.field(name), value);
    let some = |value: Duration| Some(value).filter(|value| !value.is_zero());
    let max = duration("max_stream_duration", message.max_stream_duration.as_ref())?;
    let grpc_max = duration("grpc_timeout_header_max", message.grpc_timeout_header_max.as_ref())?;
    let offset = duration("grpc_timeout_header_offset", message.grpc_timeout_header_offset.as_ref())?;
    Ok(StreamLimit {
        max: max.map(|max| Bound(some(max))),
        grpc: grpc_max.map(|max| GrpcLimit { max: some(max), offset: offset.unwrap_or_default() }),
    })
}
