//! Compiling scoped routes: how the scope of a request is found, and the scopes.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use weft_xds::{
    ResourceType,
    pb::envoy::{
        config::route::v3::{ScopedRouteConfiguration, scoped_route_configuration::key::fragment},
        extensions::filters::network::http_connection_manager::v3::{
            ScopedRoutes as Proto,
            scoped_routes::{
                ConfigSpecifier,
                scope_key_builder::fragment_builder::{self, header_value_extractor::ExtractType},
            },
        },
    },
};

use super::{
    ConfigError, Path,
    names::Names,
    route,
    source::{Patience, Source},
    unsupported, value,
};
use crate::route::{
    RouteSlot,
    scopes::{Extractor, Key, Pick, Routes, ScopedRoutes, Scopes},
};

/// Who is to be told of scopes that come from elsewhere.
#[derive(Debug, Default)]
pub(crate) struct ScopeTables {
    /// Where the scopes come from, for all that want any.
    pub(super) from: Option<Source>,
    /// With where the route tables of the scopes come from.
    tables: Vec<(Weak<Scopes>, Source)>,
    /// Whether scopes were asked for since this was last cleared.
    pub(super) asked: bool,
}

// === impl ScopeTables ===

impl ScopeTables {
    /// Those in use.
    pub(super) fn live(&self) -> Vec<(Arc<Scopes>, Source)> {
        let live = |(table, source): &(Weak<Scopes>, Source)| Some((table.upgrade()?, source.clone()));
        self.tables.iter().filter_map(live).collect()
    }

    pub(super) fn forget_unused(&mut self) {
        self.tables.retain(|(table, _)| table.strong_count() > 0);
        if self.tables.is_empty() {
            self.from = None;
        }
    }
}

pub(super) fn compile(path: &Path, message: &Proto, names: &mut Names) -> Result<Routes, ConfigError> {
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    let builder = extractors(&path.field("scope_key_builder"), message)?;
    let rds_path = path.field("rds_config_source");
    let rds = Source::read(
        &rds_path,
        message.rds_config_source.as_ref(),
        ResourceType::RouteConfiguration,
        &names.servers,
    )?;
    let patience = Patience::read(&rds_path, message.rds_config_source.as_ref())?;
    let scopes = Arc::new(Scopes::default());
    match message.config_specifier.as_ref().ok_or_else(|| path.field("scoped_rds").missing())? {
        ConfigSpecifier::ScopedRouteConfigurationsList(list) => {
            let path = path.field("scoped_route_configurations_list");
            let mut compiled: HashMap<Key, Arc<RouteSlot>> = HashMap::new();
            for (index, scope) in list.scoped_route_configurations.iter().enumerate() {
                let path = path.item("scoped_route_configurations", index);
                let key = key(&path, scope)?;
                let slot = match &scope.route_configuration {
                    Some(config) => {
                        let slot = RouteSlot::empty();
                        let table = route::compile(&path.field("route_configuration"), config, names)?;
                        slot.set(Some(Arc::new(table)));
                        Arc::new(slot)
                    }
                    None => {
                        names.patience = names.patience.and(patience);
                        names.route(&rds, &named(&path, scope)?)
                    }
                };
                if compiled.insert(key, slot).is_some() {
                    return Err(path.field("key").error("is the same as that of another scope"));
                }
            }
            scopes.set(compiled);
        }
        ConfigSpecifier::ScopedRds(scoped) => {
            let path = path.field("scoped_rds");
            unsupported!(path, scoped; srds_resources_locator);
            let path = path.field("scoped_rds_config_source");
            let config = scoped.scoped_rds_config_source.as_ref().ok_or_else(|| path.missing())?;
            let from =
                Source::read(&path, Some(config), ResourceType::ScopedRouteConfiguration, &names.servers)?;
            let tables = &mut names.scopes;
            tables.forget_unused();
            if tables.from.as_ref().is_some_and(|other| *other != from) {
                return Err(
                    path.error("is another one than that of another listener, which is not supported")
                );
            }
            tables.from = Some(from);
            tables.tables.push((Arc::downgrade(&scopes), rds));
            tables.asked = true;
            names.patience = names.patience.and(patience).and(Patience::read(&path, Some(config))?);
        }
    }
    Ok(Routes::Scoped(ScopedRoutes { builder, scopes }))
}

/// What a scope is found by.
pub(super) fn key(path: &Path, message: &ScopedRouteConfiguration) -> Result<Key, ConfigError> {
    unsupported!(path, message; on_demand);
    if message.name.is_empty() {
        return Err(path.field("name").missing());
    }
    let path = path.field("key");
    let key = message.key.as_ref().ok_or_else(|| path.missing())?;
    if key.fragments.is_empty() {
        return Err(path.field("fragments").missing());
    }
    let fragments = key.fragments.iter().enumerate().map(|(index, fragment)| match &fragment.r#type {
        Some(fragment::Type::StringKey(text)) => Ok(text.clone().into_bytes()),
        None => Err(path.item("fragments", index).field("string_key").missing()),
    });
    fragments.collect()
}

/// The name of a scope's route table.
pub(super) fn named(path: &Path, message: &ScopedRouteConfiguration) -> Result<String, ConfigError> {
    match message.route_configuration_name.as_str() {
        "" => Err(path.field("route_configuration_name").missing()),
        name => Ok(name.to_owned()),
    }
}

fn extractors(path: &Path, message: &Proto) -> Result<Vec<Extractor>, ConfigError> {
    let builder = message.scope_key_builder.as_ref().ok_or_else(|| path.missing())?;
    if builder.fragments.is_empty() {
        return Err(path.field("fragments").missing());
    }
    let fragments = builder.fragments.iter().enumerate().map(|(index, fragment)| {
        let path = path.item("fragments", index).field("header_value_extractor");
        let Some(fragment_builder::Type::HeaderValueExtractor(message)) = &fragment.r#type else {
            return Err(path.missing());
        };
        let separator = message.element_separator.clone().into_bytes();
        let pick = match message.extract_type.as_ref().ok_or_else(|| path.field("index").missing())? {
            ExtractType::Index(index) if *index > 0 && separator.is_empty() => {
                return Err(path.field("index").error("must be 0 without element_separator"));
            }
            ExtractType::Index(index) => Pick::Index(*index as usize),
            ExtractType::Element(element) => {
                let path = path.field("element");
                if element.separator.is_empty() {
                    return Err(path.field("separator").missing());
                }
                if element.key.is_empty() {
                    return Err(path.field("key").missing());
                }
                Pick::Keyed {
                    key: element.key.clone().into_bytes(),
                    separator: element.separator.clone().into_bytes(),
                }
            }
        };
        let field = value::field_name(&path.field("name"), &message.name.to_ascii_lowercase())?;
        Ok(Extractor { field, separator, pick })
    });
    fragments.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_xds::{any, json::any_from_json};

    use super::*;

    type Change = fn(&mut Value);

    fn error(change: Change) -> String {
        let mut message = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes",
            "name": "s",
            "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": "x", "index": 0}}]},
            "scoped_route_configurations_list": {"scoped_route_configurations": [
                {"name": "a", "route_configuration_name": "r", "key": {"fragments": [{"string_key": "a"}]}}]},
        });
        let compiled = |message: &Value| {
            let message: Proto = any::unpack(&any_from_json(message).expect("scopes")).expect("scopes");
            let mut names = Names::new(Default::default(), Default::default());
            compile(&Path::root("scoped_routes"), &message, &mut names)
        };
        compiled(&message).expect("good before the change");
        change(&mut message);
        compiled(&message).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let builder = "scoped_routes.scope_key_builder.fragments[0].header_value_extractor";
        let scope = "scoped_routes.scoped_route_configurations_list.scoped_route_configurations";
        fn extractor(message: &mut Value) -> &mut Value {
            &mut message["scope_key_builder"]["fragments"][0]["header_value_extractor"]
        }
        fn scopes(message: &mut Value) -> &mut Value {
            &mut message["scoped_route_configurations_list"]["scoped_route_configurations"]
        }
        let cases: [(Change, String); 8] = [
            (|message| message["name"] = "".into(), "scoped_routes.name: is required".into()),
            (
                |message| extractor(message)["index"] = 1.into(),
                format!("{builder}.index: must be 0 without element_separator"),
            ),
            (
                |message| {
                    extractor(message)["index"] = Value::Null;
                    extractor(message)["element"] = json!({"key": "k"});
                },
                format!("{builder}.element.separator: is required"),
            ),
            (
                |message| extractor(message)["name"] = "a b".into(),
                format!("{builder}.name: \"a b\" is not a field name"),
            ),
            (
                |message| scopes(message)[0]["on_demand"] = true.into(),
                format!("{scope}[0].on_demand: is not supported"),
            ),
            (
                |message| scopes(message)[0]["key"] = json!({}),
                format!("{scope}[0].key.fragments: is required"),
            ),
            (
                |message| scopes(message)[0]["route_configuration_name"] = "".into(),
                format!("{scope}[0].route_configuration_name: is required"),
            ),
            (
                |message| {
                    let same = scopes(message)[0].clone();
                    scopes(message).as_array_mut().expect("a list").push(same);
                },
                format!("{scope}[1].key: is the same as that of another scope"),
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(error(change), expected);
        }
    }
}
