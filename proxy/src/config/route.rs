//! Compiling route configurations.

use std::{sync::Arc, time::Duration};

use weft_xds::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy as ProtoRetry, Route as ProtoRoute, RouteAction,
    RouteConfiguration, VirtualHost as ProtoHost,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    route::Action as ProtoAction,
    route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier},
    weighted_cluster::{ClusterWeight, cluster_weight::HostRewriteSpecifier as WeightHostRewrite},
};

use super::{ConfigError, Path, matcher, state::Names, unsupported, value};
use crate::route::{
    Action, Forward, HostRewrite, PathRewrite, Redirect, RedirectPath, Route, Target, WeightedCluster,
    mutate::{Mutation, Mutations},
    retry::{RetryOn, RetryPolicy},
    table::{RouteTable, VirtualHost},
};

/// Envoy's default for a whole exchange.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Changes of the outer levels, most specific first.
struct Levels {
    request: Vec<Arc<Mutation>>,
    response: Vec<Arc<Mutation>>,
    /// Whether the most specific level is applied last, so that it wins.
    specific_last: bool,
}

pub(crate) fn compile(
    path: &Path,
    message: &RouteConfiguration,
    names: &mut Names,
) -> Result<RouteTable, ConfigError> {
    unsupported!(path, message; vhds, internal_only_headers, cluster_specifier_plugins, request_mirror_policies,
        vhost_header, ignore_path_parameters_in_path_matching, typed_per_filter_config, route_specifiers);
    let outer = Levels::new(message.most_specific_header_mutations_wins).with(
        value::mutation(
            path,
            "request",
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
        )?,
        value::mutation(
            path,
            "response",
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?,
    );
    let mut hosts = Vec::with_capacity(message.virtual_hosts.len());
    for (index, host) in message.virtual_hosts.iter().enumerate() {
        hosts.push(virtual_host(&path.item("virtual_hosts", index), host, &outer, names)?);
    }
    RouteTable::new(hosts, message.ignore_port_in_host_matching)
        .map_err(|reason| path.field("virtual_hosts").error(reason))
}

fn virtual_host(
    path: &Path,
    message: &ProtoHost,
    outer: &Levels,
    names: &mut Names,
) -> Result<VirtualHost, ConfigError> {
    unsupported!(path, message; matcher, require_tls, rate_limits, typed_per_filter_config,
        include_request_attempt_count, include_attempt_count_in_response, retry_policy_typed_config, hedge_policy,
        include_is_timeout_retry_header, request_mirror_policies, route_specifiers);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; cors);
    }
    if message.domains.is_empty() {
        return Err(path.field("domains").missing());
    }
    let levels = outer.with(
        value::mutation(
            path,
            "request",
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
        )?,
        value::mutation(
            path,
            "response",
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?,
    );
    let host_retry =
        message.retry_policy.as_ref().map(|policy| retry(&path.field("retry_policy"), policy)).transpose()?;
    let mut routes = Vec::with_capacity(message.routes.len());
    for (index, message) in message.routes.iter().enumerate() {
        routes.push(Arc::new(route(
            &path.item("routes", index),
            message,
            &levels,
            host_retry.as_ref(),
            names,
        )?));
    }
    Ok(VirtualHost { domains: message.domains.clone(), routes })
}

fn route(
    path: &Path,
    message: &ProtoRoute,
    outer: &Levels,
    host_retry: Option<&RetryPolicy>,
    names: &mut Names,
) -> Result<Route, ConfigError> {
    unsupported!(path, message; typed_per_filter_config, tracing, route_specifiers);
    let levels = outer.with(
        value::mutation(
            path,
            "request",
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
        )?,
        value::mutation(
            path,
            "response",
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?,
    );
    let matches = message.r#match.as_ref().ok_or_else(|| path.field("match").missing())?;
    let matches = matcher::route_match(&path.field("match"), matches)?;
    let action = match message.action.as_ref().ok_or_else(|| path.field("route").missing())? {
        ProtoAction::Route(action) => {
            Action::Forward(forward(&path.field("route"), action, host_retry, names)?)
        }
        ProtoAction::Redirect(action) => Action::Redirect(redirect(&path.field("redirect"), action)?),
        ProtoAction::DirectResponse(action) => direct(&path.field("direct_response"), action)?,
        ProtoAction::FilterAction(_) => return Err(path.field("filter_action").unsupported()),
        ProtoAction::NonForwardingAction(_) => return Err(path.field("non_forwarding_action").unsupported()),
    };
    Ok(Route {
        name: message.name.as_str().into(),
        matches,
        action,
        request: levels.mutations(&levels.request),
        response: levels.mutations(&levels.response),
    })
}

fn forward(
    path: &Path,
    message: &RouteAction,
    host_retry: Option<&RetryPolicy>,
    names: &mut Names,
) -> Result<Forward, ConfigError> {
    unsupported!(path, message; metadata_match, path_rewrite_policy, path_rewrite, flush_timeout, early_data_policy,
        retry_policy_typed_config, request_mirror_policies, priority, rate_limits, hash_policy,
        internal_redirect_policy, hedge_policy);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; cors, max_grpc_timeout, grpc_timeout_offset, internal_redirect_action,
            max_internal_redirects);
    }
    let target = match message.cluster_specifier.as_ref().ok_or_else(|| path.field("cluster").missing())? {
        ClusterSpecifier::Cluster(name) if name.is_empty() => return Err(path.field("cluster").missing()),
        ClusterSpecifier::Cluster(name) => Target::One(names.cluster(name)),
        ClusterSpecifier::WeightedClusters(weighted) => {
            let path = path.field("weighted_clusters");
            unsupported!(path, weighted; runtime_key_prefix, random_value_specifier);
            let mut clusters = Vec::with_capacity(weighted.clusters.len());
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                clusters.push(weighted_cluster(&path.item("clusters", index), cluster, names)?);
            }
            let total = clusters.iter().try_fold(0u32, |sum, cluster| sum.checked_add(cluster.weight));
            match total {
                Some(total) if total > 0 => Target::Weighted { total, clusters },
                _ => {
                    return Err(path
                        .field("clusters")
                        .error("the sum of the weights must be from 1 to 4294967295"));
                }
            }
        }
        ClusterSpecifier::ClusterHeader(_) => return Err(path.field("cluster_header").unsupported()),
        ClusterSpecifier::ClusterSpecifierPlugin(_) => {
            return Err(path.field("cluster_specifier_plugin").unsupported());
        }
        ClusterSpecifier::InlineClusterSpecifierPlugin(_) => {
            return Err(path.field("inline_cluster_specifier_plugin").unsupported());
        }
    };
    let rewrite = match (&message.prefix_rewrite, &message.regex_rewrite) {
        (prefix, None) if prefix.is_empty() => PathRewrite::Keep,
        (prefix, None) => PathRewrite::Prefix(rewrite_text(&path.field("prefix_rewrite"), prefix)?),
        (prefix, Some(rewrite)) if prefix.is_empty() => {
            let path = path.field("regex_rewrite");
            let pattern = rewrite.pattern.as_ref().ok_or_else(|| path.field("pattern").missing())?;
            PathRewrite::Regex {
                pattern: matcher::regex_anywhere(&path.field("pattern"), pattern)?,
                substitution: substitution(&rewrite_text(
                    &path.field("substitution"),
                    &rewrite.substitution,
                )?),
            }
        }
        _ => return Err(path.error("prefix_rewrite and regex_rewrite exclude each other")),
    };
    let host = match &message.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            literal_host(&path.field("host_rewrite_literal"), host)?
        }
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) if !auto.value => HostRewrite::Keep,
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => HostRewrite::Endpoint,
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            HostRewrite::Header(name.to_ascii_lowercase().into_bytes())
        }
        Some(_) => return Err(path.field("host_rewrite_specifier").unsupported()),
    };
    let mut upgrades = Vec::new();
    for (index, upgrade) in message.upgrade_configs.iter().enumerate() {
        let path = path.item("upgrade_configs", index);
        unsupported!(path, upgrade; connect_config);
        let name = upgrade.upgrade_type.to_ascii_lowercase();
        if name == "connect" {
            return Err(path.field("upgrade_type").error("CONNECT is not supported"));
        }
        upgrades.push((name, upgrade.enabled.as_ref().is_none_or(|enabled| enabled.value)));
    }
    let mut timeout = value::limit(&path.field("timeout"), message.timeout.as_ref(), Some(DEFAULT_TIMEOUT))?;
    if let Some(limits) = &message.max_stream_duration {
        let path = path.field("max_stream_duration");
        unsupported!(path, limits; grpc_timeout_header_max, grpc_timeout_header_offset);
        if let Some(max) = value::limit(&path, limits.max_stream_duration.as_ref(), None)? {
            timeout = Some(timeout.map_or(max, |timeout| timeout.min(max)));
        }
    }
    let own_retry =
        message.retry_policy.as_ref().map(|policy| retry(&path.field("retry_policy"), policy)).transpose()?;
    let no_cluster_status =
        match ClusterNotFoundResponseCode::try_from(message.cluster_not_found_response_code) {
            Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => 503,
            Ok(ClusterNotFoundResponseCode::NotFound) => 404,
            Ok(ClusterNotFoundResponseCode::InternalServerError) => 500,
            Err(_) => {
                return Err(path.field("cluster_not_found_response_code").error("is not a known value"));
            }
        };
    Ok(Forward {
        target,
        rewrite,
        host,
        append_forwarded_host: message.append_x_forwarded_host,
        timeout,
        idle_timeout: value::limit(&path.field("idle_timeout"), message.idle_timeout.as_ref(), None)?,
        retry: own_retry.or_else(|| host_retry.cloned()),
        upgrades,
        no_cluster_status,
    })
}

fn weighted_cluster(
    path: &Path,
    message: &ClusterWeight,
    names: &mut Names,
) -> Result<WeightedCluster, ConfigError> {
    unsupported!(path, message; cluster_header, metadata_match, typed_per_filter_config);
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    let mutations = |mutation: Mutation| {
        Mutations(if mutation == Mutation::default() { Vec::new() } else { vec![Arc::new(mutation)] })
    };
    let host = match &message.host_rewrite_specifier {
        None => HostRewrite::Keep,
        Some(WeightHostRewrite::HostRewriteLiteral(host)) => {
            literal_host(&path.field("host_rewrite_literal"), host)?
        }
    };
    Ok(WeightedCluster {
        cluster: names.cluster(&message.name),
        weight: value::number(message.weight.as_ref(), 0),
        request: mutations(value::mutation(
            path,
            "request",
            &message.request_headers_to_add,
            &message.request_headers_to_remove,
        )?),
        response: mutations(value::mutation(
            path,
            "response",
            &message.response_headers_to_add,
            &message.response_headers_to_remove,
        )?),
        host,
    })
}

fn retry(path: &Path, message: &ProtoRetry) -> Result<RetryPolicy, ConfigError> {
    unsupported!(path, message; per_try_idle_timeout, retry_priority, retry_options_predicates,
        rate_limited_retry_back_off, retriable_headers, retriable_request_headers, refresh_cluster_on_retry);
    for (index, predicate) in message.retry_host_predicate.iter().enumerate() {
        // A retry avoids the endpoints that failed whether asked to or not.
        if predicate.name != "envoy.retry_host_predicates.previous_hosts" {
            return Err(path.item("retry_host_predicate", index).unsupported());
        }
    }
    let on = RetryOn::parse(&message.retry_on)
        .map_err(|word| path.field("retry_on").error(format!("condition {word:?} is not supported")))?;
    let statuses = message
        .retriable_status_codes
        .iter()
        .map(|status| {
            u16::try_from(*status).map_err(|_| path.field("retriable_status_codes").error("is not a status"))
        })
        .collect::<Result<_, _>>()?;
    let back_off = path.field("retry_back_off");
    let (base, max) = match &message.retry_back_off {
        None => (None, None),
        Some(config) => (
            value::maybe_duration(&back_off.field("base_interval"), config.base_interval.as_ref())?,
            value::maybe_duration(&back_off.field("max_interval"), config.max_interval.as_ref())?,
        ),
    };
    let base = base.unwrap_or(Duration::from_millis(25));
    Ok(RetryPolicy {
        on,
        retries: value::number(message.num_retries.as_ref(), 1),
        per_try_timeout: value::limit(
            &path.field("per_try_timeout"),
            message.per_try_timeout.as_ref(),
            None,
        )?,
        statuses,
        backoff_base: base,
        backoff_max: max.unwrap_or(base.saturating_mul(10)),
    })
}

fn redirect(path: &Path, message: &RedirectAction) -> Result<Redirect, ConfigError> {
    let status = match RedirectResponseCode::try_from(message.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(path.field("response_code").error("is not a known value")),
    };
    let scheme = match &message.scheme_rewrite_specifier {
        None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
    };
    let to = match &message.path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => RedirectPath::Replace(path.clone()),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            RedirectPath::Prefix(rewrite_text(&path.field("prefix_rewrite"), prefix)?)
        }
        Some(PathRewriteSpecifier::RegexRewrite(_)) => return Err(path.field("regex_rewrite").unsupported()),
        Some(PathRewriteSpecifier::PathRewrite(_)) => return Err(path.field("path_rewrite").unsupported()),
    };
    Ok(Redirect {
        status,
        scheme,
        host: Some(message.host_redirect.clone()).filter(|host| !host.is_empty()),
        port: match message.port_redirect {
            0 => None,
            port => Some(
                u16::try_from(port)
                    .map_err(|_| path.field("port_redirect").error("must be at most 65535"))?,
            ),
        },
        path: to,
        strip_query: message.strip_query,
    })
}

fn direct(path: &Path, message: &DirectResponseAction) -> Result<Action, ConfigError> {
    unsupported!(path, message; body_format);
    let status = u16::try_from(message.status).ok().filter(|status| (200..600).contains(status));
    let status = status.ok_or_else(|| path.field("status").error("must be from 200 to 599"))?;
    Ok(Action::Direct { status, body: value::inline_data(&path.field("body"), message.body.as_ref())? })
}

fn literal_host(path: &Path, host: &str) -> Result<HostRewrite, ConfigError> {
    if !crate::http::h1::parse::is_authority(host.as_bytes()) {
        return Err(path.error(format!("{host:?} is not a host")));
    }
    Ok(HostRewrite::Literal(host.as_bytes().to_vec()))
}

/// Text that becomes part of a path: nothing that could end a request line.
fn rewrite_text(path: &Path, text: &str) -> Result<Vec<u8>, ConfigError> {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
        return Err(path.error("contains a character that no path may have"));
    }
    Ok(text.as_bytes().to_vec())
}

/// RE2's `\1` as our expressions write it, `${1}`.
fn substitution(text: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut bytes = text.iter().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'\\', Some(digit)) if digit.is_ascii_digit() => {
                result.extend_from_slice(&[b'$', b'{', **digit, b'}']);
                bytes.next();
            }
            (b'\\', Some(b'\\')) => {
                result.push(b'\\');
                bytes.next();
            }
            (b'$', _) => result.extend_from_slice(b"$$"),
            _ => result.push(*byte),
        }
    }
    result
}

// === impl Levels ===

impl Levels {
    fn new(specific_last: bool) -> Self {
        Self { request: Vec::new(), response: Vec::new(), specific_last }
    }

    /// These with one more level inside.
    fn with(&self, request: Mutation, response: Mutation) -> Self {
        let add = |levels: &[Arc<Mutation>], inner: Mutation| {
            let inner = (inner != Mutation::default()).then(|| Arc::new(inner));
            inner.into_iter().chain(levels.iter().cloned()).collect()
        };
        Self {
            request: add(&self.request, request),
            response: add(&self.response, response),
            specific_last: self.specific_last,
        }
    }

    fn mutations(&self, levels: &[Arc<Mutation>]) -> Mutations {
        let mut levels = levels.to_vec();
        if self.specific_last {
            levels.reverse();
        }
        Mutations(levels)
    }
}
