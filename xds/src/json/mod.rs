//! Envoy's configuration language: YAML and JSON to protobuf and back.
//!
//! # Guarantees
//! * A field or a type that is not known is an error that names its path, never ignored.
//! * Documents are bounded in depth, size and in what YAML's aliases may expand to; bad input never panics.
//! * The descriptors are in memory only during a call, or while somebody holds [`Descriptors`].

mod defaults;
mod depth;
mod pool;
#[cfg(test)]
mod tests;
mod text;
mod unique;

use prost::{Message, Name};
use prost_reflect::{DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::Value;

pub use self::{
    pool::Descriptors,
    text::{Format, parse_value},
};
use crate::{
    any::type_name,
    pb::{envoy::config::bootstrap::v3::Bootstrap, google::protobuf::Any},
};

/// What is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    /// Path of the field, such as `static_resources.listeners[0].name`; `line N column M` where the text cannot be
    /// read, and the name of the message where it is meant as a whole.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a bootstrap. A static cluster that names no balancing policy gets Weft's default; see [`bootstrap_from_json`].
pub fn parse_bootstrap(text: &str, format: Format) -> Result<Bootstrap, ConfigError> {
    bootstrap_from_json(parse_value(text, format)?)
}

/// Reads a bootstrap from its JSON form.
///
/// What protobuf cannot tell apart is told apart here: a static cluster that names no balancing policy gets peak EWMA,
/// written out as if the file had named it; in the message, no policy would be ROUND_ROBIN.
pub fn bootstrap_from_json(mut value: Value) -> Result<Bootstrap, ConfigError> {
    defaults::name_balancing_policies(&mut value);
    from_json(&value)
}

/// Reads a message from its JSON form: the proto3 mapping, with either spelling of field names.
pub fn from_json<M: Message + Name + Default>(value: &Value) -> Result<M, ConfigError> {
    let message = dynamic_from_json(&M::full_name(), value)?;
    decode(&M::full_name(), &message.encode_to_vec())
}

/// Reads a wrapped message from its JSON form, which names its `@type`.
pub fn any_from_json(value: &Value) -> Result<Any, ConfigError> {
    from_json(value)
}

/// The JSON form of a message, with the field names of the proto file, as Envoy's admin endpoint shows it.
pub fn to_json<M: Message + Name>(message: &M) -> Result<Value, ConfigError> {
    bytes_to_json(&M::full_name(), &message.encode_to_vec())
}

/// The JSON form of a wrapped message, with its `@type`.
pub fn any_to_json(any: &Any) -> Result<Value, ConfigError> {
    let mut value = bytes_to_json(type_name(&any.type_url), &any.value)?;
    match &mut value {
        Value::Object(fields) => {
            fields.insert("@type".to_owned(), Value::String(any.type_url.clone()));
            Ok(value)
        }
        // Types with a JSON form of their own, such as durations.
        _ => Ok(serde_json::json!({ "@type": any.type_url, "value": value })),
    }
}

fn dynamic_from_json(name: &str, value: &Value) -> Result<DynamicMessage, ConfigError> {
    let pool = Descriptors::load();
    let descriptor = pool.message(name).ok_or_else(|| unknown_type(name, name))?;
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    DynamicMessage::deserialize_with_options(descriptor, tracked, &options).map_err(|error| {
        let path = track.path();
        let path = if path.iter().next().is_none() { name.to_owned() } else { path.to_string() };
        ConfigError { path, reason: reason(&error.to_string()) }
    })
}

fn bytes_to_json(name: &str, bytes: &[u8]) -> Result<Value, ConfigError> {
    let pool = Descriptors::load();
    let descriptor = pool.message(name).ok_or_else(|| unknown_type(name, name))?;
    let message = DynamicMessage::decode(descriptor, bytes)
        .map_err(|error| ConfigError { path: name.to_owned(), reason: error.to_string() })?;
    depth::check(&pool, &message)?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| ConfigError { path: name.to_owned(), reason: reason(&error.to_string()) })
}

fn decode<M: Message + Default>(name: &str, bytes: &[u8]) -> Result<M, ConfigError> {
    // The one way to fail for bytes that were just encoded is nesting beyond what protobuf decoders accept.
    M::decode(bytes).map_err(|error| ConfigError { path: name.to_owned(), reason: error.to_string() })
}

fn unknown_type(path: &str, name: &str) -> ConfigError {
    ConfigError { path: path.to_owned(), reason: format!("unknown type {name:?}") }
}

/// The library's words, in the words that Envoy's users know.
fn reason(text: &str) -> String {
    let quoted = |prefix: &str, suffix: &str| {
        text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix)).map(str::to_owned)
    };
    if let Some(field) = quoted("unrecognized field name '", "'") {
        return format!("unknown field {field:?}");
    }
    if let Some(name) = quoted("message '", "' not found") {
        return format!("unknown type {name:?}");
    }
    if let Some(value) = quoted("unrecognized enum value '", "'") {
        return format!("unknown value {value:?}");
    }
    if text == "expected '@type' field" {
        return "field \"@type\" is missing".to_owned();
    }
    text.to_owned()
}
