//! Compiling route configurations.

mod forward;
mod internal_redirect;
mod levels;
mod mirror;
#[cfg(test)]
mod properties;
mod reply;
mod rewrite;
mod target;

use std::sync::Arc;

use weft_xds::{
    ResourceType,
    pb::envoy::config::route::v3::{
        Route as ProtoRoute, RouteConfiguration, VirtualHost as ProtoHost, route::Action as ProtoAction,
        virtual_host::TlsRequirementType,
    },
};

use self::levels::{Levels, changes};
pub(crate) use self::rewrite::rewrite_text;
pub(super) use self::rewrite::substitution;
use super::{
    ConfigError, Path, matcher, names::Names, rate_limit, retry, source::Source, unsupported, value,
};
use crate::filter::{Overrides, config as filter};
use crate::route::{
    Action, AttemptNotes, Route,
    mirror::Mirror,
    rate_limit::RateLimits,
    retry::RetryPolicy,
    table::{RouteTable, Settings, VirtualHost},
};

/// What the levels around a message say.
struct Outer {
    levels: Levels,
    filters: Overrides,
    /// Of direct responses, in bytes.
    longest_body: usize,
    mirrors: Arc<[Mirror]>,
}

/// What a virtual host says for those of its routes that say nothing.
struct Defaults {
    retry: Option<Arc<RetryPolicy>>,
    notes: AttemptNotes,
    mirrors: Arc<[Mirror]>,
    hedge_on_timeout: bool,
}

/// Envoy's default for the body of a direct response.
const LONGEST_BODY: u32 = 4096;

pub(crate) fn compile(
    path: &Path,
    message: &RouteConfiguration,
    names: &mut Names,
) -> Result<RouteTable, ConfigError> {
    if message.vhds.is_some() {
        return Err(path.field("vhds").error("is supported in routes that come over rds from ads"));
    }
    compile_with_hosts(path, message, &[], names)
}

/// The same with virtual hosts that came by themselves, and were looked at by [`check_host`].
pub(crate) fn compile_with_hosts(
    path: &Path,
    message: &RouteConfiguration,
    further: &[&ProtoHost],
    names: &mut Names,
) -> Result<RouteTable, ConfigError> {
    unsupported!(path, message; cluster_specifier_plugins, vhost_header,
        route_specifiers);
    if let Some(vhds) = &message.vhds {
        let path = path.field("vhds.config_source");
        let source = vhds.config_source.as_ref();
        if Source::read(&path, source, ResourceType::VirtualHost, &names.servers)? != Source::Ads {
            return Err(path.error("only ads is supported"));
        }
    }
    let outer = outer(path, message, names)?;
    let mut hosts = Vec::with_capacity(message.virtual_hosts.len() + further.len());
    for (index, host) in message.virtual_hosts.iter().enumerate() {
        hosts.push(virtual_host(&path.item("virtual_hosts", index), host, &outer, names)?);
    }
    for host in further {
        hosts.push(virtual_host(&Path::root("virtual-host").field(&host.name), host, &outer, names)?);
    }
    let internal_only = message.internal_only_headers.iter().enumerate();
    let internal_only =
        internal_only.map(|(index, name)| value::removable(&path.item("internal_only_headers", index), name));
    let settings = Settings {
        ignore_port: message.ignore_port_in_host_matching,
        ignore_parameters: message.ignore_path_parameters_in_path_matching,
        internal_only: internal_only.collect::<Result<_, _>>()?,
    };
    RouteTable::new(hosts, settings).map_err(|reason| path.field("virtual_hosts").error(reason))
}

/// Compiles a virtual host of this table by itself.
pub(crate) fn check_host(
    path: &Path,
    table: &RouteConfiguration,
    message: &ProtoHost,
    names: &mut Names,
) -> Result<(), ConfigError> {
    let outer = outer(path, table, names)?;
    let host = virtual_host(path, message, &outer, names)?;
    RouteTable::new(vec![host], Settings::default())
        .map(drop)
        .map_err(|reason| path.field("domains").error(reason))
}

/// What a table says for all of its virtual hosts.
fn outer(path: &Path, message: &RouteConfiguration, names: &mut Names) -> Result<Outer, ConfigError> {
    let levels = Levels::new(message.most_specific_header_mutations_wins).with(changes!(path, message));
    let filters =
        filter::overrides(path, &message.typed_per_filter_config, &Overrides::default(), &names.counters)?;
    let longest_body = value::number(message.max_direct_response_body_size_bytes.as_ref(), LONGEST_BODY);
    let mirrors = mirror::compile(path, &message.request_mirror_policies, names)?.into();
    Ok(Outer { levels, filters, longest_body: longest_body as usize, mirrors })
}

fn virtual_host(
    path: &Path,
    message: &ProtoHost,
    outer: &Outer,
    names: &mut Names,
) -> Result<VirtualHost, ConfigError> {
    unsupported!(path, message; matcher, retry_policy_typed_config, route_specifiers, request_body_buffer_limit);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; cors, per_request_buffer_limit_bytes);
    }
    if message.domains.is_empty() {
        return Err(path.field("domains").missing());
    }
    let levels = outer.levels.with(changes!(path, message));
    let filters = filter::overrides(path, &message.typed_per_filter_config, &outer.filters, &names.counters)?;
    let outer =
        Outer { levels, filters, longest_body: outer.longest_body, mirrors: Arc::clone(&outer.mirrors) };
    let retry = message.retry_policy.as_ref();
    let defaults = Defaults {
        retry: retry.map(|policy| retry::compile(&path.field("retry_policy"), policy)).transpose()?,
        notes: AttemptNotes {
            in_request: message.include_request_attempt_count,
            in_response: message.include_attempt_count_in_response,
            timeout_retry: message.include_is_timeout_retry_header,
        },
        mirrors: match mirror::compile(path, &message.request_mirror_policies, names)? {
            own if own.is_empty() => Arc::clone(&outer.mirrors),
            own => own.into(),
        },
        hedge_on_timeout: forward::hedging(path, message.hedge_policy.as_ref())?.unwrap_or_default(),
    };
    let to_tls = match TlsRequirementType::try_from(message.require_tls) {
        Ok(TlsRequirementType::None) => None,
        // Nobody is inside unless addresses are configured to be, and that is not supported.
        Ok(TlsRequirementType::All | TlsRequirementType::ExternalOnly) => Some(Arc::new(reply::to_tls())),
        Err(_) => return Err(path.field("require_tls").error("is not a known value")),
    };
    let host_limits = Arc::new(rate_limit::compile(path, &message.rate_limits)?);
    let mut routes = Vec::with_capacity(message.routes.len());
    for (index, proto) in message.routes.iter().enumerate() {
        let mut route = route(&path.item("routes", index), proto, &outer, &defaults, names)?;
        route.rate_limits.host = Arc::clone(&host_limits);
        routes.push(Arc::new(route));
    }
    let mut host = VirtualHost::new(message.domains.clone(), routes);
    host.to_tls = to_tls;
    Ok(host)
}

fn route(
    path: &Path,
    message: &ProtoRoute,
    outer: &Outer,
    defaults: &Defaults,
    names: &mut Names,
) -> Result<Route, ConfigError> {
    unsupported!(path, message; tracing, route_specifiers, request_body_buffer_limit);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; per_request_buffer_limit_bytes);
    }
    let levels = outer.levels.with(changes!(path, message));
    let matches = message.r#match.as_ref().ok_or_else(|| path.field("match").missing())?;
    let matches = matcher::route_match(&path.field("match"), matches)?;
    let action = match message.action.as_ref().ok_or_else(|| path.field("route").missing())? {
        ProtoAction::Route(action) => {
            let path = path.field("route");
            let mut forward = forward::compile(&path, action, defaults, names)?;
            if let Some(policy) = &action.path_rewrite_policy {
                forward.rewrite = rewrite::template(&path, action, policy, &matches)?;
            }
            Action::Forward(Box::new(forward))
        }
        ProtoAction::Redirect(action) => Action::Redirect(reply::redirect(&path.field("redirect"), action)?),
        ProtoAction::DirectResponse(action) => {
            reply::direct(&path.field("direct_response"), action, outer.longest_body)?
        }
        ProtoAction::FilterAction(_) => return Err(path.field("filter_action").unsupported()),
        ProtoAction::NonForwardingAction(_) => return Err(path.field("non_forwarding_action").unsupported()),
    };
    let rate_limits = match &message.action {
        Some(ProtoAction::Route(action)) => rate_limit::of_route(&path.field("route"), action)?,
        _ => RateLimits::default(),
    };
    Ok(Route {
        name: message.name.as_str().into(),
        matches,
        action,
        request: levels.mutations(&levels.request),
        response: levels.mutations(&levels.response),
        overrides: filter::overrides(
            path,
            &message.typed_per_filter_config,
            &outer.filters,
            &names.counters,
        )?,
        rate_limits,
    })
}
