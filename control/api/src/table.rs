//! Server-side printing: what `kubectl get` shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::Resource;

/// The column definitions of a kind.
pub fn columns(_res: &Resource) -> Vec<Value> {
    vec![json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})]
}

/// The cells of one object, in the order of [`columns`].
pub fn cells(_res: &Resource, object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![object.pointer("/metadata/name").cloned().unwrap_or_default()]
}
