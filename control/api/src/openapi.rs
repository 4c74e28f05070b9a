//! OpenAPI documents of what is served, as kubectl reads them for validation, `apply` and `explain`.

mod components;
mod operations;
pub(crate) mod v2_proto;

use serde_json::{Map, Value, json};

use crate::registry::{self, Resource};
use components::{Dialect, closure};
use operations::paths;

/// The OpenAPI v3 document of a group version; `None` if nothing of it is served.
pub fn openapi_v3(group: &str, version: &str) -> Option<Value> {
    let resources: Vec<&Resource> = served().filter(|r| r.group == group && r.version == version).collect();
    if resources.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths(&resources, Dialect::V3),
        "components": {"schemas": closure(&resources, Dialect::V3)},
    }))
}

/// The OpenAPI v2 document of everything.
pub fn openapi_v2() -> Value {
    let resources: Vec<&Resource> = served().collect();
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths(&resources, Dialect::V2),
        "definitions": closure(&resources, Dialect::V2),
    })
}

fn served() -> impl Iterator<Item = &'static Resource> {
    registry::all().iter().chain(registry::reviews())
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.33.0"})
}

fn object(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::Object(fields.into_iter().collect::<Map<_, _>>())
}

/// Group, version and kind as extensions show them.
fn group_version_kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests;
