//! What may not change.

use std::collections::HashSet;

use serde_json::Value;

use super::{Errors, FieldError};
use crate::access::{items, items_mut, text, text_at};
use crate::registry::Resource;

const IMMUTABLE: &str = "field is immutable";
const POD: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn check(res: &Resource, new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        same(&["metadata", field], new, old, errors);
    }
    match (res.group, res.kind) {
        ("", "Pod") => pod(new, old, errors),
        ("", "Service") => service(new, old, errors),
        ("", "ConfigMap") => frozen(&["data", "binaryData"], new, old, errors),
        ("", "Secret") => {
            same(&["type"], new, old, errors);
            frozen(&["data"], new, old, errors);
        }
        ("apps", "Deployment" | "ReplicaSet") => same(&["spec", "selector"], new, old, errors),
        ("batch", "Job") => job(new, old, errors),
        ("discovery.k8s.io", "EndpointSlice") => same(&["addressType"], new, old, errors),
        _ => {}
    }
}

fn same(path: &[&str], new: &Value, old: &Value, errors: &mut Errors) {
    let pointer = format!("/{}", path.join("/"));
    let value = |object: &Value| object.pointer(&pointer).cloned().unwrap_or_default();
    if value(new) != value(old) {
        errors.invalid(path.join("."), value(new), IMMUTABLE);
    }
}

/// ConfigMaps and Secrets that are marked immutable stay so, and keep their data.
fn frozen(fields: &[&str], new: &Value, old: &Value, errors: &mut Errors) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.add(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.add(FieldError::forbidden(*field, "field is immutable when `immutable` is set"));
        }
    }
}

fn service(new: &Value, old: &Value, errors: &mut Errors) {
    let external = |object: &Value| text_at(object, "/spec/type") == "ExternalName";
    let (before, after) = (text_at(old, "/spec/clusterIP"), text_at(new, "/spec/clusterIP"));
    if !external(new) && !external(old) && !before.is_empty() && before != after {
        errors.invalid("spec.clusterIPs[0]", after, "may not change once set");
    }
}

fn job(new: &Value, old: &Value, errors: &mut Errors) {
    for field in ["selector", "completionMode", "backoffLimitPerIndex", "podFailurePolicy", "managedBy"] {
        same(&["spec", field], new, old, errors);
    }
    // An indexed job may be made longer or shorter, but only together with its parallelism.
    let elastic = text_at(new, "/spec/completionMode") == "Indexed"
        && new.pointer("/spec/completions") == new.pointer("/spec/parallelism");
    if !elastic {
        same(&["spec", "completions"], new, old, errors);
    }
    // Queueing systems choose the nodes of a job while it is still suspended and has not started.
    let waiting = old.pointer("/spec/suspend") == Some(&Value::Bool(true))
        && text_at(old, "/status/startTime").is_empty();
    if !waiting {
        same(&["spec", "template"], new, old, errors);
    }
}

fn pod(new: &Value, old: &Value, errors: &mut Errors) {
    let (Some(new_spec), Some(old_spec)) = (new.get("spec"), old.get("spec")) else { return };
    if new_spec == old_spec {
        return;
    }
    let mut allowed = new_spec.clone();
    for list in ["containers", "initContainers"] {
        let before = items(old_spec, list);
        for (container, before) in items_mut(&mut allowed, list).zip(before) {
            copy(container, before, "image");
        }
    }
    let grows = contains_all(items(new_spec, "tolerations"), items(old_spec, "tolerations"));
    if grows {
        copy(&mut allowed, old_spec, "tolerations");
    }
    let deadline = |spec: &Value| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    match (deadline(old_spec), deadline(new_spec)) {
        (None, Some(_)) => copy(&mut allowed, old_spec, "activeDeadlineSeconds"),
        (Some(before), Some(after)) if after <= before => {
            copy(&mut allowed, old_spec, "activeDeadlineSeconds")
        }
        _ => {}
    }
    let grace = |spec: &Value| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if grace(old_spec).is_some_and(|s| s < 0) && grace(new_spec) == Some(1) {
        copy(&mut allowed, old_spec, "terminationGracePeriodSeconds");
    }
    // A gate may be lifted while the pod is not bound yet.
    let gates = items(new_spec, "schedulingGates");
    if text(old_spec, "nodeName").is_empty() && contains_all(items(old_spec, "schedulingGates"), gates) {
        copy(&mut allowed, old_spec, "schedulingGates");
    }
    if &allowed != old_spec {
        errors.add(FieldError::forbidden("spec", POD));
    }
}

fn contains_all(list: &[Value], wanted: &[Value]) -> bool {
    let list: HashSet<&Value> = list.iter().collect();
    wanted.iter().all(|item| list.contains(item))
}

/// Gives `to` the value of `from`, or none if that has none.
fn copy(to: &mut Value, from: &Value, key: &str) {
    let Some(fields) = to.as_object_mut() else { return };
    match from.get(key) {
        Some(value) => fields.insert(key.into(), value.clone()),
        None => fields.remove(key),
    };
}
