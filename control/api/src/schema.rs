//! The shape of each kind.

use serde_json::Value;

use crate::registry::Resource;
use crate::validate::FieldError;

/// How an object differs from its schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaReport {
    /// Paths of the fields that the kind does not have.
    pub unknown: Vec<String>,
    /// Fields with a value of the wrong type.
    pub mistyped: Vec<FieldError>,
}

/// Compares an object with the schema of its kind.
pub fn check(_res: &Resource, _object: &Value) -> SchemaReport {
    SchemaReport::default()
}

/// Removes the fields that the kind does not have.
pub fn prune(_res: &Resource, _object: &mut Value) {}

/// The OpenAPI v3 document of a group version.
pub fn openapi_v3(_group: &str, _version: &str) -> Option<Value> {
    None
}

/// The OpenAPI v2 document.
pub fn openapi_v2() -> Value {
    serde_json::json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": {}})
}
