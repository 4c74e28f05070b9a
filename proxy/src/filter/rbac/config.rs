//! Compiling `RBAC`.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::{
        config::{
            core::v3::CidrRange,
            rbac::v3::{
                MetadataSource, Permission as ProtoPermission, Policy as ProtoPolicy,
                Principal as ProtoPrincipal, Rbac as ProtoRules, SourcedMetadata, permission::Rule,
                principal::Identifier, rbac::Action as ProtoAction,
            },
        },
        extensions::filters::http::rbac::v3::{Rbac as Proto, RbacPerRoute},
        r#type::matcher::v3::{PathMatcher, path_matcher},
    },
};

use super::{
    COUNTERS, Rbac, RuleSets, SHADOW_COUNTERS,
    rules::{Action, Network, Permission, Policy, Principal, Rules},
};
use crate::{
    config::{ConfigError, Path, matcher, metadata, unsupported, value},
    filter::Kind,
    route::{matcher::TextMatch, metadata::MetadataMatch},
};

/// The label of the prefixes in the configuration.
const PREFIX: &str = "envoy_rbac_http_prefix";

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.rbac.v3.RBAC",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(Rbac {
            base: Arc::new(rule_sets(path, &message)?),
            stats: inputs.labelled_counters(&COUNTERS, PREFIX, &message.rules_stat_prefix),
            shadow_stats: inputs.labelled_counters(
                &SHADOW_COUNTERS,
                PREFIX,
                &message.shadow_rules_stat_prefix,
            ),
        }))
    },
    of_route: Some(("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<RbacPerRoute>(config))?;
        let path = path.field("rbac");
        // Without rules of its own a route is open, as in Envoy.
        Ok(Arc::new(message.rbac.as_ref().map_or(Ok(RuleSets::default()), |rbac| rule_sets(&path, rbac))?))
    })),
};

/// Rules in rules: as deep as anybody needs, and far from the end of the stack.
const MAX_DEPTH: usize = 16;

fn rule_sets(path: &Path, message: &Proto) -> Result<RuleSets, ConfigError> {
    unsupported!(path, message; matcher, shadow_matcher, track_per_rule_stats);
    let compile = |name: &str, message: &Option<ProtoRules>| {
        message.as_ref().map(|message| rules(&path.field(name), message)).transpose()
    };
    Ok(RuleSets {
        rules: compile("rules", &message.rules)?,
        shadow: compile("shadow_rules", &message.shadow_rules)?,
    })
}

pub(super) fn rules(path: &Path, message: &ProtoRules) -> Result<Rules, ConfigError> {
    unsupported!(path, message; audit_logging_options);
    let action = match ProtoAction::try_from(message.action) {
        Ok(ProtoAction::Allow) => Action::Allow,
        Ok(ProtoAction::Deny) => Action::Deny,
        // What it marks for access logs, ours cannot show.
        Ok(ProtoAction::Log) => Action::Log,
        Err(_) => return Err(path.field("action").error("is not a known value")),
    };
    let mut policies: Vec<_> = message.policies.iter().collect();
    policies.sort_by_key(|(name, _)| *name);
    let policies = policies
        .into_iter()
        .map(|(name, message)| policy(&Path::root(&format!("{path}.policies[{name:?}]")), name, message))
        .collect::<Result<_, _>>()?;
    Ok(Rules { action, policies })
}

fn policy(path: &Path, name: &str, message: &ProtoPolicy) -> Result<Policy, ConfigError> {
    unsupported!(path, message; condition, checked_condition, cel_config);
    for (field, is_empty) in
        [("permissions", message.permissions.is_empty()), ("principals", message.principals.is_empty())]
    {
        if is_empty {
            return Err(path.field(field).missing());
        }
    }
    Ok(Policy {
        name: name.to_owned(),
        permissions: several(path, "permissions", &message.permissions, 0, permission)?,
        principals: several(path, "principals", &message.principals, 0, principal)?,
    })
}

/// Compiles each of a list at one depth.
fn several<M, T>(
    path: &Path,
    field: &str,
    messages: &[M],
    depth: usize,
    compile: impl Fn(&Path, &M, usize) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    if depth > MAX_DEPTH {
        return Err(path.error(format!("rules are nested deeper than {MAX_DEPTH}")));
    }
    let messages = messages.iter().enumerate();
    messages.map(|(index, message)| compile(&path.item(field, index), message, depth)).collect()
}

fn permission(path: &Path, message: &ProtoPermission, depth: usize) -> Result<Permission, ConfigError> {
    let set = |name: &str, rules: &[ProtoPermission]| {
        several(&path.field(name), "rules", rules, depth + 1, permission)
    };
    Ok(match message.rule.as_ref().ok_or_else(|| path.missing())? {
        Rule::Any(true) => Permission::Any,
        Rule::Any(false) => return Err(path.field("any").error("must be true")),
        Rule::AndRules(rules) => Permission::All(set("and_rules", &rules.rules)?),
        Rule::OrRules(rules) => Permission::OneOf(set("or_rules", &rules.rules)?),
        Rule::NotRule(rule) => {
            let mut inner = set("not_rule", std::slice::from_ref(&**rule))?;
            Permission::Not(Box::new(inner.remove(0)))
        }
        Rule::Header(header) => Permission::Header(matcher::header(&path.field("header"), header)?),
        Rule::UrlPath(matcher) => Permission::Path(url_path(&path.field("url_path"), matcher)?),
        Rule::DestinationIp(range) => {
            Permission::DestinationIp(network(&path.field("destination_ip"), range)?)
        }
        Rule::DestinationPort(port) => {
            let port = u16::try_from(*port)
                .map_err(|_| path.field("destination_port").error("must be at most 65535"))?;
            Permission::DestinationPort(port, u32::from(port) + 1)
        }
        Rule::DestinationPortRange(range) => {
            let ports = (u16::try_from(range.start), u32::try_from(range.end));
            let (Ok(first), Ok(end)) = ports else {
                return Err(path.field("destination_port_range").error("is no range of ports"));
            };
            Permission::DestinationPort(first, end)
        }
        #[expect(deprecated, reason = "older control planes still send it")]
        Rule::Metadata(message) => Permission::Metadata(metadata::matcher(&path.field("metadata"), message)?),
        Rule::RequestedServerName(matcher) => {
            Permission::ServerName(matcher::text_match(&path.field("requested_server_name"), matcher)?)
        }
        Rule::Matcher(_) => return Err(path.field("matcher").unsupported()),
        Rule::UriTemplate(_) => return Err(path.field("uri_template").unsupported()),
        Rule::SourcedMetadata(message) => {
            Permission::Metadata(sourced(&path.field("sourced_metadata"), message)?)
        }
    })
}

fn principal(path: &Path, message: &ProtoPrincipal, depth: usize) -> Result<Principal, ConfigError> {
    let set =
        |name: &str, ids: &[ProtoPrincipal]| several(&path.field(name), "ids", ids, depth + 1, principal);
    Ok(match message.identifier.as_ref().ok_or_else(|| path.missing())? {
        Identifier::Any(true) => Principal::Any,
        Identifier::Any(false) => return Err(path.field("any").error("must be true")),
        Identifier::AndIds(ids) => Principal::All(set("and_ids", &ids.ids)?),
        Identifier::OrIds(ids) => Principal::OneOf(set("or_ids", &ids.ids)?),
        Identifier::NotId(id) => {
            let mut inner = set("not_id", std::slice::from_ref(&**id))?;
            Principal::Not(Box::new(inner.remove(0)))
        }
        Identifier::Authenticated(authenticated) => Principal::Authenticated(
            authenticated
                .principal_name
                .as_ref()
                .map(|name| matcher::text_match(&path.field("authenticated.principal_name"), name))
                .transpose()?,
        ),
        #[expect(deprecated, reason = "older control planes still send it")]
        Identifier::SourceIp(range) => Principal::SourceIp(network(&path.field("source_ip"), range)?),
        Identifier::Header(header) => Principal::Header(matcher::header(&path.field("header"), header)?),
        Identifier::UrlPath(matcher) => Principal::Path(url_path(&path.field("url_path"), matcher)?),
        Identifier::DirectRemoteIp(range) => {
            Principal::DirectRemoteIp(network(&path.field("direct_remote_ip"), range)?)
        }
        Identifier::RemoteIp(range) => Principal::RemoteIp(network(&path.field("remote_ip"), range)?),
        #[expect(deprecated, reason = "older control planes still send it")]
        Identifier::Metadata(message) => {
            Principal::Metadata(metadata::matcher(&path.field("metadata"), message)?)
        }
        Identifier::FilterState(_) => return Err(path.field("filter_state").unsupported()),
        Identifier::SourcedMetadata(message) => {
            Principal::Metadata(sourced(&path.field("sourced_metadata"), message)?)
        }
        Identifier::Custom(_) => return Err(path.field("custom").unsupported()),
    })
}

/// What routes say about themselves nobody keeps here.
fn sourced(path: &Path, message: &SourcedMetadata) -> Result<MetadataMatch, ConfigError> {
    match MetadataSource::try_from(message.metadata_source) {
        Ok(MetadataSource::Dynamic) => {}
        Ok(MetadataSource::Route) => {
            return Err(path.field("metadata_source").error("ROUTE is not supported"));
        }
        Err(_) => return Err(path.field("metadata_source").error("is not a known value")),
    }
    let path = path.field("metadata_matcher");
    metadata::matcher(&path, message.metadata_matcher.as_ref().ok_or_else(|| path.missing())?)
}

fn url_path(path: &Path, message: &PathMatcher) -> Result<TextMatch, ConfigError> {
    let path = path.field("path");
    match &message.rule {
        Some(path_matcher::Rule::Path(matcher)) => matcher::text_match(&path, matcher),
        None => Err(path.missing()),
    }
}

fn network(path: &Path, range: &CidrRange) -> Result<Network, ConfigError> {
    let (address, length) = value::network(path, range)?;
    Ok(Network { address, length })
}
