//! `set_metadata`: says something about requests, for filters after it and for access logs.
//!
//! Source: Envoy's `envoy.extensions.filters.http.set_metadata.v3`.

use std::sync::Arc;

use serde_json::{Map, Value};
use weft_xds::{
    any, json,
    pb::{envoy::extensions::filters::http::set_metadata::v3::Config as Proto, google::protobuf::Struct},
};

use super::{Filter, Kind, Request, Step};
use crate::{
    config::{ConfigError, Path, unsupported, value},
    metrics::CounterSet,
};

pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.set_metadata.v3.Config",
    compile: |path, config, inputs| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(SetMetadata { entries: entries(path, &message)?, stats: inputs.counters(&COUNTERS) }))
    },
    of_route: None,
};

const COUNTERS: [&str; 1] = ["envoy_http_set_metadata_overwrite_denied"];
const DENIED: usize = 0;

/// The filter.
#[derive(Debug)]
struct SetMetadata {
    entries: Vec<Entry>,
    stats: Arc<CounterSet>,
}

#[derive(Debug)]
struct Entry {
    namespace: String,
    fields: Map<String, Value>,
    /// Whether it is added to what was said under that name before.
    overwrite: bool,
}

// === impl SetMetadata ===

impl Filter for SetMetadata {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        for entry in &self.entries {
            if !entry.overwrite && request.record.metadata.of(&entry.namespace).is_some() {
                self.stats.add(request.cx.worker.index, DENIED);
                continue;
            }
            request.record.metadata.merge(&entry.namespace, &entry.fields);
        }
        Step::Continue
    }
}

// === from the configuration ===

fn entries(path: &Path, message: &Proto) -> Result<Vec<Entry>, ConfigError> {
    let mut entries = Vec::new();
    #[expect(deprecated, reason = "older control planes still send it")]
    if let (false, Some(value)) = (message.metadata_namespace.is_empty(), &message.value) {
        let fields = fields(&path.field("value"), value)?;
        entries.push(Entry { namespace: message.metadata_namespace.clone(), fields, overwrite: true });
    }
    for (index, metadata) in message.metadata.iter().enumerate() {
        let path = path.item("metadata", index);
        unsupported!(path, metadata; typed_value);
        if metadata.metadata_namespace.is_empty() {
            return Err(path.field("metadata_namespace").missing());
        }
        let Some(value) = &metadata.value else { continue };
        entries.push(Entry {
            namespace: metadata.metadata_namespace.clone(),
            fields: fields(&path.field("value"), value)?,
            overwrite: metadata.allow_overwrite,
        });
    }
    Ok(entries)
}

fn fields(path: &Path, value: &Struct) -> Result<Map<String, Value>, ConfigError> {
    match json::to_json(value).map_err(|error| path.error(error.reason))? {
        Value::Object(fields) => Ok(fields.into_iter().map(|(key, value)| (key, whole(value))).collect()),
        _ => Err(path.error("must be an object")),
    }
}

/// Numbers without a fraction are written without one.
fn whole(value: Value) -> Value {
    /// Up to here every whole number is one of these.
    const EXACT: f64 = 9_007_199_254_740_992.0;

    match value {
        Value::Number(number) => match number.as_f64() {
            Some(number) if number.fract() == 0.0 && number.abs() <= EXACT => Value::from(number as i64),
            _ => Value::Number(number),
        },
        Value::Array(values) => values.into_iter().map(whole).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, whole(value))).collect(),
        other => other,
    }
}
