//! Rules about `metadata`.

use serde_json::Value;

use super::names::{
    DNS_LABEL_1035_HINT, DNS_LABEL_HINT, DNS_SUBDOMAIN_HINT, LABEL_VALUE_HINT, QUALIFIED_NAME_HINT,
};
use super::{Errors, FieldError};
use super::{is_dns_label, is_dns_label_1035, is_dns_subdomain, is_label_value, is_qualified_name};
use crate::access::{entries, items, text};
use crate::registry::Resource;

const MAX_ANNOTATION_BYTES: usize = 256 << 10;

pub(super) fn check(res: &Resource, object: &Value, errors: &mut Errors) {
    let meta = object.get("metadata").unwrap_or(&Value::Null);
    name(res, text(meta, "name"), errors);
    labels("metadata.labels", meta, "labels", errors);
    annotations("metadata.annotations", meta, errors);
    for (index, finalizer) in items(meta, "finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        if !is_qualified_name(finalizer) {
            errors.invalid(format!("metadata.finalizers[{index}]"), finalizer, QUALIFIED_NAME_HINT);
        }
    }
    owners(meta, errors);
}

fn name(res: &Resource, name: &str, errors: &mut Errors) {
    let (fits, hint) = match (res.group, res.kind) {
        _ if name.is_empty() => {
            errors.required("metadata.name", "name or generateName is required");
            return;
        }
        ("", "Namespace") => (is_dns_label(name), DNS_LABEL_HINT),
        ("", "Service") => (is_dns_label_1035(name), DNS_LABEL_1035_HINT),
        _ => (is_dns_subdomain(name), DNS_SUBDOMAIN_HINT),
    };
    if !fits {
        errors.invalid("metadata.name", name, hint);
    }
}

/// The map of labels under `key` of `object`.
pub(super) fn labels(path: &str, object: &Value, key: &str, errors: &mut Errors) {
    for (label, value) in entries(object, key) {
        if !is_qualified_name(label) {
            errors.invalid(path, label.as_str(), QUALIFIED_NAME_HINT);
        }
        let value = value.as_str().unwrap_or_default();
        if !is_label_value(value) {
            errors.invalid(path, value, LABEL_VALUE_HINT);
        }
    }
}

pub(super) fn annotations(path: &str, meta: &Value, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in entries(meta, "annotations") {
        if !is_qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), QUALIFIED_NAME_HINT);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATION_BYTES {
        errors.add(FieldError::too_long(path, MAX_ANNOTATION_BYTES));
    }
}

fn owners(meta: &Value, errors: &mut Errors) {
    let mut controllers = 0;
    for (index, owner) in items(meta, "ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.invalid(format!("metadata.ownerReferences[{index}].{field}"), "", "must not be empty");
            }
        }
        controllers += usize::from(owner.get("controller") == Some(&Value::Bool(true)));
    }
    if controllers > 1 {
        errors.invalid(
            "metadata.ownerReferences",
            meta["ownerReferences"].clone(),
            "Only one reference can have Controller set to true",
        );
    }
}
