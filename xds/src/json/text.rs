//! Text to a tree of values, within bounds.

use serde_json::Value;

use super::{ConfigError, unique::Unique};

/// The largest document that is read; Envoy's own is bounded by memory only.
const MAX_BYTES: usize = 64 << 20;

/// Deeper than any real configuration.
const MAX_DEPTH: usize = 64;

/// The YAML reader recurses, with up to 30 KB for a level in builds without optimisation: with [`MAX_DEPTH`] levels
/// that may be more than a thread's usual 2 MB, so it gets a thread of its own. What it does not touch costs nothing.
const YAML_STACK_BYTES: usize = 16 << 20;

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// YAML; JSON too, being a subset.
    Yaml,
    /// JSON.
    Json,
    /// JSON if it begins with `{`, else YAML. A YAML document in flow style is read as such when it is no JSON.
    #[default]
    Auto,
}

/// Reads any YAML or JSON document, bounded in depth and size.
pub fn parse_value(text: &str, format: Format) -> Result<Value, ConfigError> {
    if text.len() > MAX_BYTES {
        let reason = format!("{} bytes are too much, the limit is {MAX_BYTES}", text.len());
        return Err(ConfigError { path: "document".to_owned(), reason });
    }
    match format {
        Format::Json => parse_json(text),
        Format::Yaml => parse_yaml(text),
        Format::Auto if text.trim_start().starts_with('{') => parse_json(text).or_else(|error| {
            // `{a: b}` is YAML only. For what is neither, the JSON error is the more telling one.
            parse_yaml(text).map_err(|_| error)
        }),
        Format::Auto => parse_yaml(text),
    }
}

fn parse_json(text: &str) -> Result<Value, ConfigError> {
    // serde_json bounds the depth by itself (128), and has nothing that expands.
    serde_json::from_str(text).map(|Unique(value)| value).map_err(|error| {
        let path = format!("line {} column {}", error.line(), error.column());
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or_default().to_owned();
        ConfigError { path, reason }
    })
}

fn parse_yaml(text: &str) -> Result<Value, ConfigError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("yaml".to_owned())
            .stack_size(YAML_STACK_BYTES)
            .spawn_scoped(scope, || parse_yaml_here(text))
            .map_err(|error| ConfigError { path: "document".to_owned(), reason: error.to_string() })?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn parse_yaml_here(text: &str) -> Result<Value, ConfigError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            // Room for the largest document made of short scalars.
            max_events: 8_000_000,
            max_nodes: 8_000_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 10_000,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let path = match error.location() {
            Some(location) => format!("line {} column {}", location.line(), location.column()),
            None => "document".to_owned(),
        };
        ConfigError { path, reason: error.to_string() }
    })
}
