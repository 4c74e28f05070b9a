//! Compiling `http_filters` and `typed_per_filter_config`.

use std::{collections::HashMap, sync::Arc};

use weft_xds::{
    ResourceType, any,
    pb::{
        envoy::{
            config::{core::v3::ExtensionConfigSource, route::v3::FilterConfig},
            extensions::filters::{
                http::router::v3::Router,
                network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
            },
        },
        google::protobuf::Any,
    },
};

use super::{
    Chain, Filters, Inputs, Kind, LiveChain, Overrides, adaptive_concurrency, admission_control, buffer,
    cdn_loop,
    chain::Entry,
    compressor, cors, ext_authz, fault, grpc_web, header_mutation, health_check, jwt_authn,
    live::{Discovered, Place},
    local_ratelimit, on_demand,
    overrides::Override,
    ratelimit, rbac, set_metadata, stateful_session,
};
use crate::{
    config::{
        ConfigError, Path,
        names::Names,
        source::{Patience, Source},
        unsupported, value,
    },
    metrics::NamedCounters,
    worker::upkeep::Upkeeps,
};

/// Every kind of filter that there is, but for the router.
const KINDS: [&Kind; 18] = [
    &adaptive_concurrency::KIND,
    &admission_control::KIND,
    &buffer::KIND,
    &cdn_loop::KIND,
    &compressor::KIND,
    &cors::KIND,
    &ext_authz::KIND,
    &fault::KIND,
    &grpc_web::KIND,
    &header_mutation::KIND,
    &health_check::KIND,
    &jwt_authn::KIND,
    &local_ratelimit::KIND,
    &on_demand::KIND,
    &ratelimit::KIND,
    &rbac::KIND,
    &set_metadata::KIND,
    &stateful_session::KIND,
];

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const WRAPPER: &str = "envoy.config.route.v3.FilterConfig";

/// What `http_filters` says.
pub(crate) struct HttpFilters {
    pub(crate) chain: Filters,
    /// Whether the router leaves Envoy's own fields out.
    pub(crate) suppress_envoy_headers: bool,
}

/// Compiles the filters of a connection manager, the router last.
pub(crate) fn compile(
    path: &Path,
    filters: &[HttpFilter],
    stat_prefix: &str,
    names: &mut Names,
    upkeeps: &Upkeeps,
) -> Result<HttpFilters, ConfigError> {
    let counters = Arc::clone(&names.counters);
    let mut inputs = Inputs::new(stat_prefix, &counters, names, upkeeps);
    let mut places: Vec<Place> = Vec::new();
    let mut router = None;
    for (index, filter) in filters.iter().enumerate() {
        let path = path.item("http_filters", index);
        if router.is_some() {
            return Err(path.error("the router must be the last filter"));
        }
        if places.iter().any(|place| place.name() == filter.name) {
            return Err(path.field("name").error(format!("{:?} is in more than one place", filter.name)));
        }
        let disabled = path.field("disabled");
        let config = match &filter.config_type {
            Some(ConfigType::TypedConfig(config)) => config,
            Some(ConfigType::ConfigDiscovery(config)) => {
                let path = path.field("config_discovery");
                places.push(Place::Discovered(discovered(&path, filter, config, &mut inputs)?));
                continue;
            }
            None => return Err(path.field("typed_config").missing()),
        };
        let path = path.field("typed_config");
        let name = any::type_name(&config.type_url);
        if name == ROUTER {
            if filter.disabled {
                return Err(disabled.error("the router cannot be switched off"));
            }
            router = Some(self::router(&path, config)?);
        } else if let Some(kind) = KINDS.iter().find(|kind| kind.message == name) {
            let compiled = (kind.compile)(&path, config, &mut inputs)?;
            let filter =
                Entry { name: filter.name.clone(), disabled: filter.disabled, filter: compiled.into() };
            places.push(Place::Fixed(filter));
        } else if filter.is_optional {
            tracing::warn!(filter = name, "optional filter is not supported and left out");
        } else {
            return Err(path
                .field("@type")
                .error(format!("filter {:?} ({name}) is not supported", filter.name)));
        }
    }
    // The chain is new: nobody has set it before.
    let _ = inputs.chain.set(std::mem::take(&mut inputs.compressors));
    let suppress_envoy_headers =
        router.ok_or_else(|| path.field("http_filters").error("must end with the router filter"))?;
    let chain = if places.iter().any(|place| matches!(place, Place::Discovered(_))) {
        let chain = Arc::new(LiveChain::new(stat_prefix, places));
        names.extensions.follow(&chain);
        Filters::Live(chain)
    } else {
        Filters::Fixed(Chain { entries: places.into_iter().filter_map(Place::fixed).collect() })
    };
    Ok(HttpFilters { chain, suppress_envoy_headers })
}

/// A place whose filter comes by extension discovery, with what is known of that by now.
fn discovered(
    path: &Path,
    filter: &HttpFilter,
    message: &ExtensionConfigSource,
    inputs: &mut Inputs<'_>,
) -> Result<Discovered, ConfigError> {
    let source_path = path.field("config_source");
    let config = message.config_source.as_ref().ok_or_else(|| source_path.missing())?;
    let source =
        Source::read(&source_path, Some(config), ResourceType::ExtensionConfig, &inputs.names.servers)?;
    if message.type_urls.is_empty() {
        return Err(path.field("type_urls").missing());
    }
    let mut kinds = Vec::new();
    for (index, url) in message.type_urls.iter().enumerate() {
        let name = any::type_name(url);
        // Which compressors a chain has decides what each of them does.
        let kind = KINDS.iter().find(|kind| kind.message == name && name != compressor::KIND.message);
        let path = path.item("type_urls", index);
        kinds.push(*kind.ok_or_else(|| path.error(format!("{name} is not supported here")))?);
    }
    let key = source.key(&filter.name);
    let mut place = Discovered::new(filter, key.clone(), kinds);
    let patience = Patience::read(&source_path, Some(config))?;
    let at_once = message.apply_default_config_without_warming;
    if let Some(default) = &message.default_config {
        place.default = Some(place.compile(&path.field("default_config"), default, inputs)?);
    } else if at_once {
        return Err(path.field("default_config").missing());
    }
    if !at_once {
        inputs.names.patience = inputs.names.patience.and(patience);
    }
    inputs.names.extensions.ask(&source, &filter.name, !at_once);
    if let Some(known) = inputs.names.extensions.get(&key).cloned() {
        match place.compile_extension(&Path::root("extension").field(&filter.name), &known, inputs) {
            Ok(filter) => place.filter = Some(filter),
            // As Envoy: what another listener asked for need not be what this one can use.
            Err(error) => {
                tracing::warn!(filter = filter.name, %error, "extension does not fit this listener")
            }
        }
    }
    Ok(place)
}

fn router(path: &Path, config: &Any) -> Result<bool, ConfigError> {
    let router = value::unpacked(path, any::unpack::<Router>(config))?;
    unsupported!(path, router; upstream_log, upstream_log_options, strict_check_headers,
        respect_expected_rq_timeout, upstream_http_filters, reject_connect_request_early_data);
    Ok(router.suppress_envoy_headers)
}

/// Compiles what one level says about filters, inside `outer`. As in Envoy, a name that no filter has is no error: other
/// connection managers may use the same routes.
pub(crate) fn overrides(
    path: &Path,
    message: &HashMap<String, Any>,
    outer: &Overrides,
    counters: &NamedCounters,
) -> Result<Overrides, ConfigError> {
    if message.is_empty() {
        return Ok(outer.clone());
    }
    // In the order of the names, so that the same mistake always gives the same error.
    let mut names: Vec<_> = message.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    let mut inner = Vec::new();
    for (name, config) in names {
        let path = Path::root(&format!("{path}.typed_per_filter_config[{name:?}]"));
        if any::type_name(&config.type_url) != WRAPPER {
            inner.extend(of_filter(&path, name, config, false, counters)?);
            continue;
        }
        let wrapper = value::unpacked(&path, any::unpack::<FilterConfig>(config))?;
        match &wrapper.config {
            _ if wrapper.disabled => inner.push(Override { filter: name.clone(), settings: None }),
            Some(config) => {
                let path = path.field("config");
                inner.extend(of_filter(&path, name, config, wrapper.is_optional, counters)?);
            }
            None => return Err(path.field("config").missing()),
        }
    }
    Ok(outer.with(inner))
}

fn of_filter(
    path: &Path,
    name: &str,
    config: &Any,
    optional: bool,
    counters: &NamedCounters,
) -> Result<Option<Override>, ConfigError> {
    let message = any::type_name(&config.type_url);
    let known = KINDS.iter().filter_map(|kind| kind.of_route).find(|(known, _)| *known == message);
    match known {
        Some((_, compile)) => {
            let settings = Some(compile(path, config, counters)?);
            Ok(Some(Override { filter: name.to_owned(), settings }))
        }
        None if optional => {
            tracing::warn!(filter = name, message, "optional filter settings are not supported and left out");
            Ok(None)
        }
        None => Err(path.field("@type").error(format!("{message} is not supported"))),
    }
}
