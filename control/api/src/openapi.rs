//! OpenAPI.
use serde_json::Value;
/// The OpenAPI v3 document of a group version.
pub fn openapi_v3(_group: &str, _version: &str) -> Option<Value> {
    None
}

/// The OpenAPI v2 document.
pub fn openapi_v2() -> Value {
    serde_json::json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": {}})
}
