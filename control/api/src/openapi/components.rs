//! Schema definitions in the two dialects.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{group_version_kind, object};
use crate::fields::{self, Field};
use crate::registry::{self, Resource};
use crate::schema::{REFERENCE, definitions};

/// Which version of OpenAPI is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The definitions of the resources, and all that they refer to.
pub(super) fn closure(resources: &[&Resource], dialect: Dialect) -> Value {
    let mut out = Map::new();
    let mut wanted: Vec<String> = vec![STATUS.into(), DELETE_OPTIONS.into(), LIST_META.into()];
    for resource in resources {
        wanted.push(resource.definition.into());
        wanted.extend(resource.subresources.iter().filter_map(|s| definition_of(s.group, s.version, s.kind)));
        if resource.has_verb("list") {
            out.insert(list_definition(resource), list_schema(resource, dialect));
        }
    }
    let mut seen: BTreeSet<String> = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(schema) = definitions().get(&name) else { continue };
        references(schema, &mut wanted);
        out.insert(name.clone(), definition(&name, schema, dialect));
    }
    Value::Object(out)
}

/// The definition of the kind that a sub-resource exchanges. Options that only make a URL have none.
pub(super) fn definition_of(group: &str, version: &str, kind: &str) -> Option<String> {
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    let name = format!("io.k8s.api.{package}.{version}.{kind}");
    definitions().contains_key(&name).then_some(name)
}

/// Name of the definition of a list of the resource.
pub(super) fn list_definition(resource: &Resource) -> String {
    format!("{}List", resource.definition)
}

/// A reference to a definition.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    json!({"$ref": format!("{}{name}", prefix(dialect))})
}

fn prefix(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::V2 => "#/definitions/",
        Dialect::V3 => "#/components/schemas/",
    }
}

fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(name) =
                fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE))
            {
                out.push(name.to_owned());
            }
            fields.values().for_each(|value| references(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

fn definition(name: &str, schema: &Value, dialect: Dialect) -> Value {
    let mut out = match name {
        QUANTITY | INT_OR_STRING => number_or_text(name, schema, dialect),
        _ => convert(schema, dialect),
    };
    if let (Some(message), Some(properties)) =
        (fields::definition(name), out.get_mut("properties").and_then(Value::as_object_mut))
    {
        for (property, schema) in properties {
            if let Some(field) = message.by_name(property) {
                extend(schema, field);
            }
        }
    }
    let kinds = kinds_of(name);
    if !kinds.is_empty() {
        // k8s-openapi has no optional metadata, but writers need not give any.
        if let Some(required) = out.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|field| field != "metadata");
        }
        out["x-kubernetes-group-version-kind"] = Value::Array(kinds);
    }
    if out.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty)
        && let Some(fields) = out.as_object_mut()
    {
        fields.remove("required");
    }
    out
}

/// What a strategic merge and a server-side apply need to know about a list.
fn extend(schema: &mut Value, field: &Field) {
    for (key, value) in [
        ("x-kubernetes-patch-strategy", field.patch_strategy),
        ("x-kubernetes-patch-merge-key", field.merge_key),
        ("x-kubernetes-list-type", field.list_type),
    ] {
        if let Some(value) = value {
            schema[key] = value.into();
        }
    }
    if let Some(keys) = field.list_map_keys {
        schema["x-kubernetes-list-map-keys"] = keys.split(',').collect();
    }
}

fn number_or_text(name: &str, schema: &Value, dialect: Dialect) -> Value {
    let mut out = json!({"description": schema["description"]});
    match (name, dialect) {
        (QUANTITY, Dialect::V2) => out["type"] = "string".into(),
        (QUANTITY, Dialect::V3) => out["oneOf"] = json!([{"type": "string"}, {"type": "number"}]),
        (_, Dialect::V2) => {
            out["type"] = "string".into();
            out["format"] = "int-or-string".into();
        }
        (_, Dialect::V3) => {
            out["format"] = "int-or-string".into();
            out["oneOf"] = json!([{"type": "integer"}, {"type": "string"}]);
        }
    }
    out
}

/// Turns references into those of the dialect. OpenAPI v3 knows nothing beside a reference, so it is wrapped where it has a
/// description.
fn convert(schema: &Value, dialect: Dialect) -> Value {
    match schema {
        Value::Object(fields) => {
            let target = fields.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REFERENCE));
            let others = fields.iter().filter(|(key, _)| target.is_none() || *key != "$ref");
            let mut out = object(others.map(|(key, value)| (key.clone(), convert(value, dialect))));
            if let Some(target) = target {
                let target = reference(target, dialect);
                let bare = out.as_object().is_some_and(Map::is_empty);
                if dialect == Dialect::V3 && !bare {
                    out["allOf"] = json!([target]);
                } else {
                    out["$ref"] = target["$ref"].clone();
                }
            }
            out
        }
        Value::Array(items) => items.iter().map(|item| convert(item, dialect)).collect(),
        leaf => leaf.clone(),
    }
}

fn list_schema(resource: &Resource, dialect: Dialect) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let mut metadata = json!({"description": "Standard list metadata."});
    let target = reference(LIST_META, dialect);
    match dialect {
        Dialect::V2 => metadata["$ref"] = target["$ref"].clone(),
        Dialect::V3 => metadata["allOf"] = json!([target]),
    }
    json!({
        "description": format!("{} is a list of {}s.", resource.list_kind(), resource.kind),
        "type": "object",
        "properties": {
            "apiVersion": text("Version of this representation."),
            "kind": text("Kind of the list."),
            "metadata": metadata,
            "items": {
                "description": "The objects.",
                "type": "array",
                "items": reference(resource.definition, dialect),
            },
        },
        "required": ["items"],
        "x-kubernetes-group-version-kind":
            [group_version_kind(resource.group, resource.version, &resource.list_kind())],
    })
}

/// The kinds whose objects have this definition.
fn kinds_of(name: &str) -> Vec<Value> {
    if name == DELETE_OPTIONS {
        let versions: BTreeSet<(&str, &str)> = registry::all().iter().map(|r| (r.group, r.version)).collect();
        return versions.into_iter().map(|(g, v)| group_version_kind(g, v, "DeleteOptions")).collect();
    }
    if name == STATUS {
        return vec![group_version_kind("", "v1", "Status")];
    }
    for resource in registry::all().iter().chain(registry::reviews()) {
        if resource.definition == name {
            return vec![group_version_kind(resource.group, resource.version, resource.kind)];
        }
        for sub in resource.subresources {
            if definition_of(sub.group, sub.version, sub.kind).as_deref() == Some(name) {
                return vec![group_version_kind(sub.group, sub.version, sub.kind)];
            }
        }
    }
    Vec::new()
}
