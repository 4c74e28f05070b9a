//! Comparing objects with their shape.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::shape::{Shape, shape};
use crate::quantity::Quantity;
use crate::registry::Resource;
use crate::validate::{FieldError, FieldErrorKind};

/// How an object differs from its schema.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SchemaReport {
    /// Paths of the fields that the kind does not have, such as `spec.template.spec.containers[0].imagee`.
    pub unknown: Vec<String>,
    /// Fields with a value of the wrong type.
    pub mistyped: Vec<FieldError>,
}

/// Compares an object with the schema of its kind. A null stands for an absent value everywhere.
pub fn check(res: &Resource, object: &Value) -> SchemaReport {
    let mut walker = Walker { path: String::new(), report: SchemaReport::default() };
    walker.value(shape(res.definition), object);
    walker.report
}

/// Removes the fields that the kind does not have, and those that are null.
pub fn prune(res: &Resource, object: &mut Value) {
    prune_value(shape(res.definition), object);
}

struct Walker {
    path: String,
    report: SchemaReport,
}

impl Walker {
    fn value(&mut self, expected: &Shape, value: &Value) {
        if value.is_null() {
            return;
        }
        match (expected, value) {
            (Shape::Any, _) => {}
            (Shape::Reference(name), value) => self.value(shape(name), value),
            (Shape::Object(shapes), Value::Object(fields)) => {
                for (name, value) in fields {
                    self.below(name, |walker| match shapes.get(name.as_str()) {
                        Some(shape) => walker.value(shape, value),
                        None => walker.report.unknown.push(walker.path.clone()),
                    });
                }
            }
            (Shape::Map(shape), Value::Object(entries)) => {
                for (key, value) in entries {
                    self.below(key, |walker| walker.value(shape, value));
                }
            }
            (Shape::List(shape), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    let outer = self.path.len();
                    self.path.push_str(&format!("[{index}]"));
                    self.value(shape, item);
                    self.path.truncate(outer);
                }
            }
            (expected, value) => {
                if let Err(detail) = leaf(expected, value) {
                    let error = FieldError::new(self.path.clone(), FieldErrorKind::TypeInvalid);
                    self.report.mistyped.push(error.value(short(value)).detail(detail));
                }
            }
        }
    }

    fn below(&mut self, name: &str, visit: impl FnOnce(&mut Self)) {
        let outer = self.path.len();
        if outer > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        visit(self);
        self.path.truncate(outer);
    }
}

/// What to show of a bad value: a whole subtree would drown the message.
fn short(value: &Value) -> Value {
    match value {
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
        leaf => leaf.clone(),
    }
}

fn leaf(expected: &Shape, value: &Value) -> Result<(), String> {
    let (wanted, fits) = match expected {
        Shape::Text => ("a string", value.is_string()),
        Shape::Bool => ("a boolean", value.is_boolean()),
        Shape::Number => ("a number", value.is_number()),
        Shape::Int32 => ("an integer of 32 bits", value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())),
        Shape::Int64 => ("an integer of 64 bits", value.is_i64()),
        Shape::IntOrString => (
            "an integer or a string",
            value.is_string() || value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        ),
        Shape::Quantity => {
            if let Err(error) = Quantity::from_value(value) {
                return Err(error.to_string());
            }
            return Ok(());
        }
        Shape::Bytes => (
            "a base64-encoded string",
            value.as_str().is_some_and(|text| STANDARD.decode(text.replace(['\r', '\n'], "")).is_ok()),
        ),
        Shape::Time => {
            ("a time as in RFC 3339", value.as_str().is_some_and(|text| text.parse::<Timestamp>().is_ok()))
        }
        Shape::List(_) => ("an array", false),
        Shape::Object(_) | Shape::Map(_) => ("an object", false),
        // Any fits and references are resolved by the caller.
        Shape::Any | Shape::Reference(_) => return Ok(()),
    };
    if fits { Ok(()) } else { Err(format!("must be {wanted}, not {}", describe(value))) }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "this number",
        Value::String(_) => "this string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn prune_value(expected: &Shape, value: &mut Value) {
    match (expected, value) {
        (Shape::Reference(name), value) => prune_value(shape(name), value),
        (Shape::Object(shapes), Value::Object(fields)) => {
            fields.retain(|name, value| match shapes.get(name.as_str()) {
                Some(_) if value.is_null() => false,
                Some(shape) => {
                    prune_value(shape, value);
                    true
                }
                None => false,
            })
        }
        (Shape::Map(shape), Value::Object(entries)) => entries.retain(|_, value| {
            prune_value(shape, value);
            !value.is_null()
        }),
        (Shape::List(shape), Value::Array(items)) => {
            items.iter_mut().for_each(|item| prune_value(shape, item))
        }
        _ => {}
    }
}
