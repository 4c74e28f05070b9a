//! The configuration in force, as Envoy dumps it.

use serde_json::{Map, Value, json};
use weft_xds::{ResourceType, json::to_json};

use super::{Admin, query::Query};
use crate::config::{known::Known, state::State};

/// What a secret is replaced by.
const REDACTED: &str = "[redacted]";
/// Fields whose texts nobody may read here.
const SENSITIVE: &[&str] =
    &["private_key", "private_key_provider", "password", "pkcs12", "session_ticket_keys", "generic_secret"];

/// Why a dump is not given: status and text.
pub(super) type Refusal = (u16, String);

impl Admin {
    pub(super) fn config_dump(&self, query: &Query) -> Result<Value, Refusal> {
        let names = query.regex("name_regex", true).map_err(|reason| (400, reason))?;
        let mut configs = self.configs(query.has("include_eds"));
        if let Some(names) = names {
            for config in &mut configs {
                retain_names(config, &|name| names.is_match(name));
            }
        }
        let mask = query.get("mask").filter(|mask| !mask.is_empty());
        if let Some(resource) = query.get("resource").filter(|resource| !resource.is_empty()) {
            let mut elements = elements(&configs, resource)
                .ok_or_else(|| (404, format!("{resource} not found in config dump")))?;
            if let Some(mask) = mask {
                for element in &mut elements {
                    if !apply_mask(element, mask) {
                        return Err((400, format!("FieldMask {mask} could not be successfully used.")));
                    }
                }
            }
            return Ok(json!({ "configs": elements }));
        }
        if let Some(mask) = mask {
            configs.retain_mut(|config| apply_mask(config, mask));
            if configs.is_empty() {
                let reason = format!("FieldMask {mask} could not be successfully applied to any configs.");
                return Err((400, reason));
            }
        }
        Ok(json!({ "configs": configs }))
    }

    fn configs(&self, endpoints: bool) -> Vec<Value> {
        let state = self.state.lock();
        let version =
            |type_: ResourceType| state.versions.get(&type_.to_string()).cloned().unwrap_or_default();
        let kind = |name: &str| format!("type.googleapis.com/envoy.admin.v3.{name}");
        let (mut static_clusters, mut dynamic_clusters) = (Vec::new(), Vec::new());
        for (name, entry) in &state.clusters {
            let config = shown(to_json(&entry.message), "envoy.config.cluster.v3.Cluster");
            let item = json!({ "cluster": config });
            if entry.from_file {
                static_clusters.push(dated(item, &self.started_at));
            } else {
                dynamic_clusters.push(known(item, &state, ResourceType::Cluster, name));
            }
        }
        let warming_clusters: Vec<Value> = state
            .next_clusters
            .iter()
            .map(|(name, entry)| {
                let config = shown(to_json(&entry.message), "envoy.config.cluster.v3.Cluster");
                known(json!({ "cluster": config }), &state, ResourceType::Cluster, name)
            })
            .collect();
        let (mut static_listeners, mut dynamic_listeners) = (Vec::new(), Vec::new());
        for (name, entry) in &state.listeners {
            let config = shown(to_json(&entry.message), "envoy.config.listener.v3.Listener");
            let item = json!({ "listener": config });
            if entry.from_file {
                static_listeners.push(dated(item, &self.started_at));
                continue;
            }
            let mut active = known(item, &state, ResourceType::Listener, name);
            let error = active.as_object_mut().and_then(|active| active.remove("error_state"));
            let phase = if entry.slot.is_some() { "active_state" } else { "warming_state" };
            let mut listener = json!({"name": name, phase: active});
            if let Some(error) = error {
                listener["error_state"] = error;
            }
            dynamic_listeners.push(listener);
        }
        for (name, error) in state.ledger.failures(ResourceType::Listener) {
            if !state.listeners.contains_key(name) {
                dynamic_listeners.push(json!({"name": name, "error_state": error.as_json()}));
            }
        }
        let routes: Vec<Value> = state
            .routes
            .iter()
            .map(|(name, message)| {
                let config = shown(to_json(message), "envoy.config.route.v3.RouteConfiguration");
                known(json!({ "route_config": config }), &state, ResourceType::RouteConfiguration, name)
            })
            .collect();
        let mut configs = vec![
            json!({"@type": kind("BootstrapConfigDump"), "bootstrap": self.bootstrap.clone(),
                "last_updated": self.started_at}),
            json!({"@type": kind("ClustersConfigDump"), "version_info": version(ResourceType::Cluster),
                "static_clusters": static_clusters, "dynamic_active_clusters": dynamic_clusters,
                "dynamic_warming_clusters": warming_clusters}),
        ];
        if endpoints {
            let sets: Vec<Value> = state
                .endpoints
                .iter()
                .map(|(name, message)| {
                    let config = shown(to_json(message), "envoy.config.endpoint.v3.ClusterLoadAssignment");
                    let item = json!({ "endpoint_config": config });
                    known(item, &state, ResourceType::ClusterLoadAssignment, name)
                })
                .collect();
            configs.push(json!({"@type": kind("EndpointsConfigDump"), "dynamic_endpoint_configs": sets}));
        }
        configs.push(
            json!({"@type": kind("ListenersConfigDump"), "version_info": version(ResourceType::Listener),
            "static_listeners": static_listeners, "dynamic_listeners": dynamic_listeners}),
        );
        configs.push(json!({"@type": kind("RoutesConfigDump"), "dynamic_route_configs": routes}));
        let extensions: Vec<Value> = state
            .extensions()
            .map(|(name, message)| {
                let config = shown(to_json(message), "envoy.config.core.v3.TypedExtensionConfig");
                known(json!({ "ecds_filter": config }), &state, ResourceType::ExtensionConfig, name)
            })
            .collect();
        if !extensions.is_empty() {
            configs.push(json!({"@type": kind("EcdsConfigDump"), "ecds_filters": extensions}));
        }
        let scopes: Vec<Value> = state
            .scopes
            .values()
            .map(|message| shown(to_json(message), "envoy.config.route.v3.ScopedRouteConfiguration"))
            .collect();
        if !scopes.is_empty() {
            let version = version(ResourceType::ScopedRouteConfiguration);
            configs.push(json!({"@type": kind("ScopedRoutesConfigDump"),
                "dynamic_scoped_route_configs": [{"version_info": version, "scoped_route_configs": scopes}]}));
        }
        // Not of Envoy, so a type that every reader of protobuf's JSON knows.
        if let Some(last_good) = &state.last_good {
            configs.push(
                json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": last_good.as_json()}),
            );
        }
        configs
    }
}

/// A message with its type, without its secrets.
fn shown(message: Result<Value, weft_xds::json::ConfigError>, type_: &str) -> Value {
    let mut value = message.unwrap_or_default();
    redact(&mut value, false);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("@type".to_owned(), Value::String(format!("type.googleapis.com/{type_}")));
    }
    value
}

/// Replaces every text below a sensitive field.
pub(super) fn redact(value: &mut Value, sensitive: bool) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                redact(value, sensitive || SENSITIVE.contains(&name.as_str()));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, sensitive)),
        Value::String(text) if sensitive => REDACTED.clone_into(text),
        _ => {}
    }
}

fn dated(mut item: Value, at: &str) -> Value {
    item["last_updated"] = at.into();
    item
}

/// With what is known about where it came from.
fn known(mut item: Value, state: &State, type_: ResourceType, name: &str) -> Value {
    if let Some(Known { version, updated, failure }) = state.ledger.get(type_, name) {
        if let Some(updated) = updated {
            item["version_info"] = version.clone().into();
            item["last_updated"] = updated.to_string().into();
        }
        if let Some(failure) = failure {
            item["error_state"] = failure.as_json();
        }
    }
    item
}

/// The elements of the repeated field `resource` of whichever config has it, each with its type.
fn elements(configs: &[Value], resource: &str) -> Option<Vec<Value>> {
    configs.iter().find_map(|config| {
        let items = config.get(resource)?.as_array()?;
        let outer = config.get("@type")?.as_str()?;
        let inner = match resource {
            "static_clusters" => "StaticCluster",
            "dynamic_active_clusters" => "DynamicCluster",
            "static_listeners" => "StaticListener",
            "dynamic_listeners" => "DynamicListener",
            "dynamic_route_configs" => "DynamicRouteConfig",
            "dynamic_endpoint_configs" => "DynamicEndpointConfig",
            "ecds_filters" => "EcdsFilterConfig",
            "dynamic_scoped_route_configs" => "DynamicScopedRouteConfigs",
            _ => return None,
        };
        let typed = items.iter().cloned().map(|mut item| {
            item["@type"] = format!("{outer}.{inner}").into();
            item
        });
        Some(typed.collect())
    })
}

/// Keeps the elements that have a name which is wanted, and everything that is no list of resources.
fn retain_names(config: &mut Value, wanted: &dyn Fn(&str) -> bool) {
    let Some(fields) = config.as_object_mut() else { return };
    for items in fields.values_mut().filter_map(Value::as_array_mut) {
        items.retain(|item| name_of(item).is_some_and(wanted));
    }
}

fn name_of(item: &Value) -> Option<&str> {
    let inside = ["cluster", "listener", "route_config", "endpoint_config", "ecds_filter"];
    let config = inside.iter().find_map(|field| item.get(field)).unwrap_or(item);
    config.get("name").or_else(|| config.get("cluster_name"))?.as_str()
}

/// Keeps only the fields that the mask names, beside the type; whether there was any.
fn apply_mask(value: &mut Value, mask: &str) -> bool {
    let paths: Vec<Vec<&str>> = mask.split(',').map(|path| path.split('.').collect()).collect();
    let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
    let kept = masked(value, &paths);
    let any = kept.as_object().is_some_and(|fields| fields.keys().any(|name| name != "@type"));
    *value = kept;
    any
}

fn masked(value: &Value, paths: &[&[&str]]) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(|item| masked(item, paths)).collect()),
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, field) in fields {
                let below: Vec<&[&str]> = paths
                    .iter()
                    .filter_map(|path| {
                        path.split_first().filter(|(first, _)| *first == name).map(|(_, rest)| rest)
                    })
                    .collect();
                if name == "@type" || below.iter().any(|rest| rest.is_empty()) {
                    kept.insert(name.clone(), field.clone());
                } else if !below.is_empty() {
                    kept.insert(name.clone(), masked(field, &below));
                }
            }
            Value::Object(kept)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut value = json!({"common_tls_context": {"tls_certificates": [
            {"certificate_chain": {"inline_string": "public"}, "private_key": {"inline_string": "secret"}}]}});
        redact(&mut value, false);
        let text = value.to_string();
        assert!(text.contains("public") && text.contains(REDACTED) && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_mask_keeps_what_it_names() {
        let mut value =
            json!({"@type": "t", "cluster": {"@type": "c", "name": "up", "type": "EDS"}, "other": 1});
        assert!(apply_mask(&mut value, "cluster.name"));
        assert_eq!(value, json!({"@type": "t", "cluster": {"@type": "c", "name": "up"}}));
        assert!(!apply_mask(&mut value, "nothing"));
    }
}
