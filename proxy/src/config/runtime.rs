//! Reading what the static runtime layers say about connections.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;
use weft_xds::{
    json,
    pb::envoy::config::bootstrap::v3::{LayeredRuntime, runtime_layer::LayerSpecifier},
};

use super::{ConfigError, Path};
use crate::listener::limit::{Gate, Gates};

/// Envoy's key for all connections of clients together.
const GLOBAL: &str = "overload.global_downstream_max_connections";
/// Envoy's keys for the connections of one listener have its name in the middle.
const LISTENER: (&str, &str) = ("envoy.resource_limits.listener.", ".connection_limit");

/// Reads the limits; a later layer overrides an earlier one.
pub(super) fn gates(path: &Path, runtime: &LayeredRuntime) -> Result<Gates, ConfigError> {
    let mut values = HashMap::new();
    for (index, layer) in runtime.layers.iter().enumerate() {
        let path = path.item("layers", index);
        match &layer.layer_specifier {
            Some(LayerSpecifier::StaticLayer(fields)) => {
                let path = path.field("static_layer");
                let fields = json::to_json(fields).map_err(|error| path.error(error.reason))?;
                flatten(String::new(), fields, &mut values);
            }
            // Nothing is put into it, as long as nobody asks the admin address to.
            Some(LayerSpecifier::AdminLayer(_)) => {}
            Some(LayerSpecifier::DiskLayer(_)) => return Err(path.field("disk_layer").unsupported()),
            Some(LayerSpecifier::RtdsLayer(_)) => return Err(path.field("rtds_layer").unsupported()),
            None => return Err(path.field("static_layer").missing()),
        }
    }
    let mut gates = Gates::default();
    for (key, value) in values {
        let listener = key.strip_prefix(LISTENER.0).and_then(|rest| rest.strip_suffix(LISTENER.1));
        if listener.is_none() && key != GLOBAL {
            return Err(path.field(&key).unsupported());
        }
        // The configuration language writes numbers as texts at times.
        let number = match &value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => {
                number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64))
            }
            _ => None,
        };
        let limit = number.ok_or_else(|| path.field(&key).error("must be a number, at least 0"))?;
        let gate = Arc::new(Gate::new(limit));
        match listener {
            Some(name) => drop(gates.listeners.insert(name.to_owned(), gate)),
            None => gates.global = Some(gate),
        }
    }
    Ok(gates)
}

/// Keys can be written with dots, as nested objects, or as both.
fn flatten(key: String, value: Value, into: &mut HashMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(key, value, into);
            }
        }
        value => drop(into.insert(key, value)),
    }
}
