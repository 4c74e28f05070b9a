//! Definitions compiled into the form that objects are compared with.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::definitions::{REFERENCE, definitions};

/// What a value may look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object with these fields and no others.
    Object(HashMap<&'static str, Shape>),
    /// Another definition.
    Reference(&'static str),
    Map(Box<Shape>),
    List(Box<Shape>),
    Text,
    /// Base64.
    Bytes,
    /// RFC 3339.
    Time,
    Bool,
    Int32,
    Int64,
    Number,
    IntOrString,
    Quantity,
    /// Anything: the schema does not say.
    Any,
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

static SHAPES: LazyLock<HashMap<&'static str, Shape>> = LazyLock::new(|| {
    definitions()
        .iter()
        .map(|(name, schema)| {
            let shape = match name.as_str() {
                QUANTITY => Shape::Quantity,
                INT_OR_STRING => Shape::IntOrString,
                _ => compile(schema),
            };
            (name.as_str(), shape)
        })
        .collect()
});

/// The shape of a definition.
pub(super) fn shape(definition: &str) -> &'static Shape {
    SHAPES.get(definition).unwrap_or(&Shape::Any)
}

fn compile(schema: &'static Value) -> Shape {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    if let Some(name) = text("$ref").and_then(|r| r.strip_prefix(REFERENCE)) {
        return Shape::Reference(name);
    }
    // A reference with a description beside it is wrapped by some generators.
    if let Some([single]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        return compile(single);
    }
    match (text("type"), text("format")) {
        (Some("object"), _) => compile_object(schema),
        (Some("array"), _) => Shape::List(Box::new(schema.get("items").map_or(Shape::Any, compile))),
        (Some("string"), Some("byte")) => Shape::Bytes,
        (Some("string"), Some("date-time")) => Shape::Time,
        (Some("string"), _) => Shape::Text,
        (Some("boolean"), _) => Shape::Bool,
        (Some("integer"), Some("int32")) => Shape::Int32,
        (Some("integer"), _) => Shape::Int64,
        (Some("number"), _) => Shape::Number,
        _ => Shape::Any,
    }
}

fn compile_object(schema: &'static Value) -> Shape {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        return Shape::Object(properties.iter().map(|(k, v)| (k.as_str(), compile(v))).collect());
    }
    match schema.get("additionalProperties") {
        Some(values) => Shape::Map(Box::new(compile(values))),
        // An object without anything said about it: FieldsV1, RawExtension, and options that are still empty.
        None => Shape::Any,
    }
}
