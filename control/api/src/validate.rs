//! The rules that objects must keep, and how a broken one is reported.
//!
//! Objects are expected to have passed [`crate::schema::check`] and to have their defaults; what has the wrong type is read as
//! absent, so nothing panics if they have not.

mod container;
mod error;
mod immutable;
mod meta;
mod names;
mod other;
mod pod;
mod service;
mod workload;

pub use error::{FieldError, FieldErrorKind};
pub use names::{
    is_dns_label, is_dns_label_1035, is_dns_subdomain, is_label_value, is_port_name, is_qualified_name,
};

use std::collections::HashSet;

use serde_json::Value;

use crate::registry::Resource;

/// What is wrong with a new object. `metadata.name` must have been generated already.
pub fn create(res: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::check(res, object, &mut errors);
    match (res.group, res.kind) {
        ("", "Pod") => pod::pod(object, &mut errors),
        ("", "Service") => service::service(object, &mut errors),
        ("", "ConfigMap" | "Secret") => other::data(res, object, &mut errors),
        ("", "Node") => other::node(object, &mut errors),
        ("" | "events.k8s.io", "Event") => other::event(res, object, &mut errors),
        ("apps", "Deployment") => workload::deployment(object, &mut errors),
        ("apps", "ReplicaSet") => workload::replica_set(object, &mut errors),
        ("batch", "Job") => workload::job(object, &mut errors),
        ("coordination.k8s.io", "Lease") => other::lease(object, &mut errors),
        ("discovery.k8s.io", "EndpointSlice") => service::endpoint_slice(object, &mut errors),
        _ => {}
    }
    errors.list
}

/// What is wrong with a changed object: the rules of [`create`], and those about what may not change.
pub fn update(res: &Resource, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors { list: create(res, new) };
    immutable::check(res, new, old, &mut errors);
    errors.list
}

/// Collects what is wrong.
#[derive(Default)]
struct Errors {
    list: Vec<FieldError>,
}

// === impl Errors ===

impl Errors {
    fn add(&mut self, error: FieldError) {
        self.list.push(error);
    }

    fn required(&mut self, path: impl Into<String>, detail: &str) {
        self.add(FieldError::required(path, detail));
    }

    fn invalid(&mut self, path: impl Into<String>, value: impl Into<Value>, detail: &str) {
        self.add(FieldError::invalid(path, value, detail));
    }

    /// An enumeration; absent is allowed.
    fn one_of(&mut self, path: impl Into<String>, value: &str, supported: &[&str]) {
        if !value.is_empty() && !supported.contains(&value) {
            self.add(FieldError::not_supported(path, value, supported));
        }
    }

    /// An integer that must not be below `minimum`; absent is allowed.
    fn at_least(&mut self, path: impl Into<String>, value: Option<i64>, minimum: i64) {
        if let Some(value) = value.filter(|v| *v < minimum) {
            self.invalid(path, value, &format!("must be greater than or equal to {minimum}"));
        }
    }

    fn dns_label(&mut self, path: impl Into<String>, value: &str) {
        if value.is_empty() {
            self.required(path, "");
        } else if !is_dns_label(value) {
            self.invalid(path, value, names::DNS_LABEL_HINT);
        }
    }

    fn port(&mut self, path: impl Into<String>, value: Option<i64>) {
        match value {
            None => self.required(path, ""),
            Some(1..=65_535) => {}
            Some(value) => self.invalid(path, value, "must be between 1 and 65535, inclusive"),
        }
    }

    /// A port by number or by name.
    fn port_or_name(&mut self, path: impl Into<String>, value: Option<&Value>) {
        match value {
            Some(Value::String(name)) if !is_port_name(name) => {
                self.invalid(path, name.as_str(), names::PORT_NAME_HINT);
            }
            Some(Value::String(_)) => {}
            other => self.port(path, other.and_then(Value::as_i64)),
        }
    }

    fn unique<'a>(&mut self, path: impl Into<String>, value: &'a str, seen: &mut HashSet<&'a str>) {
        if !seen.insert(value) {
            self.add(FieldError::duplicate(path, value));
        }
    }
}

#[cfg(test)]
mod tests;
