//! The rules that objects must keep, and how a broken one is reported.

mod error;
mod names;

pub use error::{FieldError, FieldErrorKind};
pub use names::{
    is_dns_label, is_dns_label_1035, is_dns_subdomain, is_label_value, is_port_name, is_qualified_name,
};

use serde_json::Value;

use crate::registry::Resource;

/// What is wrong with a new object.
pub fn create(_res: &Resource, _object: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// What is wrong with a changed object.
pub fn update(_res: &Resource, _new: &Value, _old: &Value) -> Vec<FieldError> {
    Vec::new()
}
