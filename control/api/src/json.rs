//! Request bodies in JSON and YAML: bounded depth, duplicate fields noticed.

mod visitor;

use serde::de::DeserializeSeed;
use serde_json::Value;
use thiserror::Error;

use visitor::{Seed, Seen};

/// How deep a body may nest. Far above what any kind needs, far below what would exhaust a stack.
const MAX_DEPTH: usize = 100;

/// The same for YAML, whose parser takes some 20 kB of stack for each level in unoptimised builds.
const MAX_YAML_DEPTH: usize = 50;

/// What a body says.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The value; of fields that occur twice the last one.
    pub value: Value,
    /// Paths of the fields that occur more than once, such as `spec.replicas`.
    pub duplicates: Vec<String>,
}

/// The body is not a well-formed value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Broken JSON.
    #[error("invalid JSON: {0}")]
    Json(String),
    /// Broken YAML.
    #[error("invalid YAML: {0}")]
    Yaml(String),
    /// The text is not UTF-8.
    #[error("the body is not valid UTF-8")]
    Encoding,
}

/// Reads one JSON value. Nothing may follow it but white space.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let mut seen = Seen::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed::root(&mut seen, MAX_DEPTH)
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| ParseError::Json(error.to_string()))?;
    Ok(Parsed { value, duplicates: seen.into_duplicates() })
}

/// Reads one YAML document. Anchors and aliases are refused: no Kubernetes client sends them, and they are how a small body
/// becomes a large one.
pub fn parse_yaml(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ParseError::Encoding)?;
    let mut seen = Seen::default();
    let budget = serde_saphyr::budget! { max_aliases: 0, max_anchors: 0, max_depth: MAX_YAML_DEPTH, flow_nesting_limit: MAX_YAML_DEPTH };
    let options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        merge_keys: serde_saphyr::MergeKeyPolicy::AsOrdinary,
    };
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        Seed::root(&mut seen, MAX_YAML_DEPTH).deserialize(deserializer)
    })
    .map_err(|error| ParseError::Yaml(first_line(&error.to_string())))?;
    Ok(Parsed { value, duplicates: seen.into_duplicates() })
}

/// The parser adds an excerpt of the document below its message; an error text for clients is one line.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
