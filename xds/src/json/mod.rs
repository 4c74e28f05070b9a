//! Envoy's configuration language: YAML and JSON to protobuf and back.

use prost::{Message, Name};
use serde_json::Value;

use crate::pb::{envoy::config::bootstrap::v3::Bootstrap, google::protobuf::Any};

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// YAML; JSON too, being a subset.
    Yaml,
    /// JSON.
    Json,
    /// JSON if it begins with `{`, else YAML.
    #[default]
    Auto,
}

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    /// Path of the field, such as `static_resources.listeners[0].name`; `line N column M` for a syntax error.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a bootstrap.
pub fn parse_bootstrap(text: &str, format: Format) -> Result<Bootstrap, ConfigError> {
    from_json(&parse_value(text, format)?)
}

/// Reads any YAML or JSON document, bounded in depth and size.
pub fn parse_value(_text: &str, _format: Format) -> Result<Value, ConfigError> {
    unimplemented!()
}

/// Reads a message from its JSON form (proto3 mapping, either spelling of field names).
pub fn from_json<M: Message + Name + Default>(_value: &Value) -> Result<M, ConfigError> {
    unimplemented!()
}

/// The JSON form of a message, with the field names of the proto file, as Envoy's admin shows it.
pub fn to_json<M: Message + Name>(_message: &M) -> Result<Value, ConfigError> {
    unimplemented!()
}

/// The JSON form of a wrapped message, with its `@type`.
pub fn any_to_json(_any: &Any) -> Result<Value, ConfigError> {
    unimplemented!()
}
