//! Rules about the small kinds.

use std::collections::HashSet;

use serde_json::Value;

use super::names::QUALIFIED_NAME_HINT;
use super::{Errors, FieldError, is_qualified_name, pod};
use crate::access::{entries, int_at, items_at, text, text_at};
use crate::registry::Resource;

const MAX_DATA_BYTES: usize = 1 << 20;

/// ConfigMaps and Secrets.
pub(super) fn data(res: &Resource, object: &Value, errors: &mut Errors) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        for (key, value) in entries(object, field) {
            let fits = !key.is_empty()
                && key.len() <= 253
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && key != "."
                && !key.starts_with("..");
            if !fits {
                errors.invalid(
                    format!("{field}[{key}]"),
                    key.as_str(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
                     'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                );
            }
            let length = value.as_str().map_or(0, str::len);
            // Secrets and binary data are base64, which takes four bytes for three.
            size += if res.kind == "Secret" || field == "binaryData" { length / 4 * 3 } else { length };
            if field == "binaryData" && object.get("data").is_some_and(|d| d.get(key).is_some()) {
                errors.invalid(
                    format!("data[{key}]"),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                );
            }
        }
    }
    if size > MAX_DATA_BYTES {
        errors.add(FieldError::too_long("data", MAX_DATA_BYTES));
    }
    let needed: &[&str] = match text(object, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed {
        if object.get("data").is_none_or(|data| data.get(key).is_none()) {
            errors.required(format!("data[{key}]"), "");
        }
    }
}

pub(super) fn node(object: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, taint) in items_at(object, "/spec/taints").iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        if !is_qualified_name(key) {
            errors.invalid(format!("{path}.key"), key, QUALIFIED_NAME_HINT);
        }
        if effect.is_empty() {
            errors.required(format!("{path}.effect"), "");
        }
        pod::effect(&format!("{path}.effect"), effect, errors);
        if !seen.insert((key, effect)) {
            errors.add(FieldError::duplicate(path, taint.clone()));
        }
    }
}

/// An event lives in the namespace of what it is about; that of a cluster-wide object in `default`.
pub(super) fn event(res: &Resource, object: &Value, errors: &mut Errors) {
    let field = if res.group.is_empty() { "involvedObject" } else { "regarding" };
    let about = text_at(object, &format!("/{field}/namespace"));
    let namespace = text_at(object, "/metadata/namespace");
    let fits = if about.is_empty() {
        matches!(namespace, "default" | "kube-system" | "")
    } else {
        about == namespace
    };
    if !fits {
        errors.invalid(format!("{field}.namespace"), about, "does not match event.namespace");
    }
}

pub(super) fn lease(object: &Value, errors: &mut Errors) {
    for field in ["leaseDurationSeconds", "leaseTransitions"] {
        let value = int_at(object, &format!("/spec/{field}"));
        errors.at_least(format!("spec.{field}"), value, i64::from(field == "leaseDurationSeconds"));
    }
}
