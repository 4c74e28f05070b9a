//! Compiling `JwtAuthentication`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use weft_xds::{
    any,
    pb::envoy::extensions::filters::http::jwt_authn::v3::{
        JwtAuthentication, JwtProvider, JwtRequirement, PerRouteConfig, RemoteJwks,
        jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType,
        per_route_config::RequirementSpecifier, requirement_rule::RequirementType,
    },
};

use super::{
    COUNTERS, JwtAuthn, OwnRequirement, Requirement, Rule,
    keys::KeySet,
    provider::{Keys, PayloadField, Place, Provider},
    remote::{RemoteKeys, State},
};
use crate::{
    config::{ConfigError, Path, matcher, route, service, unsupported, value},
    filter::{Inputs, Kind},
    http::h1::parse::is_authority,
    metrics::CounterSet,
    route::backoff::BackOff,
    worker::upkeep::Upkeep,
};

pub(in crate::filter) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<JwtAuthentication>(config))?;
        Ok(Box::new(compile(path, &message, inputs)?))
    },
    of_route: Some(("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<PerRouteConfig>(config))?;
        match message.requirement_specifier {
            Some(RequirementSpecifier::Disabled(true)) => Ok(Arc::new(OwnRequirement::Disabled)),
            Some(RequirementSpecifier::Disabled(false)) => Err(path.field("disabled").error("must be true")),
            Some(RequirementSpecifier::RequirementName(name)) => Ok(Arc::new(OwnRequirement::Named(name))),
            None => Err(path.field("requirement_name").missing()),
        }
    })),
};

/// How long keys that a server gave are good, where nothing is configured.
const KEY_LIFETIME: Duration = Duration::from_secs(600);
/// What Envoy demands of it.
const SHORTEST_LIFETIME: Duration = Duration::from_millis(1);
/// How soon keys are asked for again after a failure.
const REFETCH: Duration = Duration::from_secs(1);

/// Envoy's tolerance for clocks that differ, in seconds.
const CLOCK_SKEW: u32 = 60;
/// Requirements in requirements: as deep as anybody needs, and far from the end of the stack.
const MAX_DEPTH: usize = 16;

/// Providers by their names, as messages and as what became of them.
type Providers = HashMap<String, Arc<Provider>>;

fn compile(
    path: &Path,
    message: &JwtAuthentication,
    inputs: &mut Inputs<'_>,
) -> Result<JwtAuthn, ConfigError> {
    let stats = inputs.counters(&COUNTERS);
    unsupported!(path, message; filter_state_rules, strip_failure_response, stat_prefix);
    let mut messages: Vec<_> = message.providers.iter().collect();
    messages.sort_by_key(|(name, _)| *name);
    let mut providers = Providers::new();
    let mut own_fields = Vec::new();
    for (name, message) in messages {
        let path = Path::root(&format!("{path}.providers[{name:?}]"));
        let provider = provider(&path, message, &stats, inputs)?;
        own_fields.extend(provider.payload_field.iter().map(|field| field.name.clone()));
        own_fields.extend(provider.claim_fields.iter().map(|(name, _)| name.clone()));
        providers.insert(name.clone(), Arc::new(provider));
    }
    let mut named = HashMap::new();
    for (name, message) in &message.requirement_map {
        let path = Path::root(&format!("{path}.requirement_map[{name:?}]"));
        named.insert(name.clone(), requirement(&path, message, &providers, 0)?);
    }
    let mut rules = Vec::new();
    for (index, rule) in message.rules.iter().enumerate() {
        let path = path.item("rules", index);
        let matches = rule.r#match.as_ref().ok_or_else(|| path.field("match").missing())?;
        let required = match &rule.requirement_type {
            None => None,
            Some(RequirementType::Requires(message)) => {
                Some(requirement(&path.field("requires"), message, &providers, 0)?)
            }
            Some(RequirementType::RequirementName(name)) => {
                let path = path.field("requirement_name");
                let message = message
                    .requirement_map
                    .get(name)
                    .ok_or_else(|| path.error(format!("{name:?} is not in requirement_map")))?;
                Some(requirement(&path, message, &providers, 0)?)
            }
        };
        let matches = matcher::route_match(&path.field("match"), matches)?;
        rules.push(Rule { matches, requirement: required });
    }
    Ok(JwtAuthn { rules, named, own_fields, bypass_cors_preflight: message.bypass_cors_preflight, stats })
}

fn requirement(
    path: &Path,
    message: &JwtRequirement,
    providers: &Providers,
    depth: usize,
) -> Result<Requirement, ConfigError> {
    if depth > MAX_DEPTH {
        return Err(path.error(format!("requirements are nested deeper than {MAX_DEPTH}")));
    }
    let several = |name: &str, messages: &[JwtRequirement]| {
        let path = path.field(name);
        let messages = messages.iter().enumerate();
        messages
            .map(|(index, message)| {
                requirement(&path.item("requirements", index), message, providers, depth + 1)
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(match &message.requires_type {
        None => Requirement::Nothing,
        Some(RequiresType::ProviderName(name)) => {
            let unknown = || path.field("provider_name").error(format!("{name:?} is no provider"));
            Requirement::Provider(Arc::clone(providers.get(name).ok_or_else(unknown)?))
        }
        Some(RequiresType::RequiresAny(list)) => {
            Requirement::Any(several("requires_any", &list.requirements)?)
        }
        Some(RequiresType::RequiresAll(list)) => {
            let all = several("requires_all", &list.requirements)?;
            if all.iter().any(|requirement| matches!(requirement, Requirement::AllowMissing)) {
                return Err(path
                    .field("requires_all")
                    .error("allow_missing is supported in requires_any only"));
            }
            Requirement::All(all)
        }
        Some(RequiresType::AllowMissing(_)) if depth > 0 => Requirement::AllowMissing,
        Some(RequiresType::AllowMissing(_)) => {
            return Err(path.field("allow_missing").error("is supported in requires_any only"));
        }
        Some(RequiresType::AllowMissingOrFailed(_)) => Requirement::Nothing,
        Some(RequiresType::ProviderAndAudiences(_)) => {
            return Err(path.field("provider_and_audiences").unsupported());
        }
        Some(RequiresType::ExtractOnlyWithoutValidation(_)) => {
            return Err(path.field("extract_only_without_validation").unsupported());
        }
    })
}

fn provider(
    path: &Path,
    message: &JwtProvider,
    stats: &Arc<CounterSet>,
    inputs: &mut Inputs<'_>,
) -> Result<Provider, ConfigError> {
    unsupported!(path, message; max_lifetime, from_cookies, normalize_payload_in_metadata,
        header_in_metadata, failed_status_in_metadata, jwt_cache_config, clear_route_cache);
    let keys = match &message.jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(source)) => {
            let path = path.field("local_jwks");
            let keys = KeySet::parse(&value::inline_data(&path, Some(source))?);
            Keys::Local(keys.map_err(|reason| path.error(reason))?)
        }
        Some(JwksSourceSpecifier::RemoteJwks(source)) => {
            Keys::Remote(remote(&path.field("remote_jwks"), source, stats, inputs)?)
        }
        None => return Err(path.field("local_jwks").missing()),
    };
    let field = |path: &Path, name: &str| value::removable(path, name);
    let mut places = Vec::new();
    for (index, header) in message.from_headers.iter().enumerate() {
        let path = path.item("from_headers", index);
        let prefix = header.value_prefix.clone().into_bytes();
        places.push(Place::Field { name: field(&path.field("name"), &header.name)?, prefix });
    }
    places.extend(message.from_params.iter().map(|name| Place::Parameter(name.clone().into_bytes())));
    if places.is_empty() {
        places.push(Place::Field { name: b"authorization".to_vec(), prefix: b"Bearer ".to_vec() });
        places.push(Place::Parameter(b"access_token".to_vec()));
    }
    let mut claim_fields = Vec::new();
    for (index, claim) in message.claim_to_headers.iter().enumerate() {
        let path = path.item("claim_to_headers", index);
        unsupported!(path, claim; claim_path);
        claim_fields.push((field(&path.field("header_name"), &claim.header_name)?, claim.claim_name.clone()));
    }
    let payload_path = path.field("forward_payload_header");
    let payload_field = match message.forward_payload_header.as_str() {
        "" => None,
        name => Some(PayloadField {
            name: field(&payload_path, name)?,
            padded: message.pad_forward_payload_header,
        }),
    };
    let subjects = message.subjects.as_ref();
    Ok(Provider {
        issuer: message.issuer.clone(),
        audiences: message.audiences.clone(),
        subjects: subjects.map(|text| matcher::text_match(&path.field("subjects"), text)).transpose()?,
        require_expiration: message.require_expiration,
        clock_skew: u64::from(match message.clock_skew_seconds {
            0 => CLOCK_SKEW,
            seconds => seconds,
        }),
        places,
        forward: message.forward,
        payload_field,
        metadata_key: Some(message.payload_in_metadata.clone()).filter(|key| !key.is_empty()),
        claim_fields,
        keys,
    })
}

fn remote(
    path: &Path,
    message: &RemoteJwks,
    stats: &Arc<CounterSet>,
    inputs: &mut Inputs<'_>,
) -> Result<Arc<RemoteKeys>, ConfigError> {
    let uri_path = path.field("http_uri");
    let uri = message.http_uri.as_ref().ok_or_else(|| uri_path.missing())?;
    let (cluster, timeout) = service::http(&uri_path, uri, inputs.names)?;
    let uri_path = uri_path.field("uri");
    let rest = uri.uri.split_once("://").map_or(uri.uri.as_str(), |(_, rest)| rest);
    let (host, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !is_authority(host.as_bytes()) {
        return Err(uri_path.error(format!("{host:?} is not a host")));
    }
    let target = if target.is_empty() { "/" } else { target };
    let lifetime_path = path.field("cache_duration");
    let lifetime = value::maybe_duration(&lifetime_path, message.cache_duration.as_ref())?;
    let lifetime = lifetime.unwrap_or(KEY_LIFETIME);
    if lifetime < SHORTEST_LIFETIME {
        return Err(lifetime_path.error("must be at least a millisecond"));
    }
    let (mut retries, mut back_off) = (0, BackOff { base: REFETCH, max: 10 * REFETCH });
    if let Some(policy) = &message.retry_policy {
        let path = path.field("retry_policy");
        unsupported!(path, policy; retry_on, retry_priority, retry_host_predicate,
            host_selection_retry_max_attempts);
        retries = value::number(policy.num_retries.as_ref(), 1);
        if let Some(times) = &policy.retry_back_off {
            let path = path.field("retry_back_off");
            let time = |name: &str, time| value::maybe_duration(&path.field(name), time);
            let base = time("base_interval", times.base_interval.as_ref())?;
            back_off.base = base.ok_or_else(|| path.field("base_interval").missing())?;
            back_off.max = time("max_interval", times.max_interval.as_ref())?
                .unwrap_or_else(|| back_off.base.saturating_mul(10));
        }
    }
    let ahead = match &message.async_fetch {
        // With or without `fast_listener`: listeners do not wait, the requests that need the keys do.
        Some(fetch) => {
            let path = path.field("async_fetch.failed_refetch_duration");
            let again = value::maybe_duration(&path, fetch.failed_refetch_duration.as_ref())?;
            Some(again.unwrap_or(REFETCH))
        }
        None => None,
    };
    let keys = Arc::new(RemoteKeys {
        cluster,
        host: host.as_bytes().to_vec(),
        target: route::rewrite_text(&uri_path, target)?,
        timeout,
        lifetime,
        retries,
        back_off,
        ahead,
        stats: Arc::clone(stats),
        state: State::default(),
    });
    if keys.ahead.is_some() {
        inputs.upkeeps.add(&(Arc::clone(&keys) as Arc<dyn Upkeep>));
    }
    Ok(keys)
}
