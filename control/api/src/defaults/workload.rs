//! Defaults of the kinds that make pods.

use serde_json::{Value, json};

use super::pod;
use crate::access::{child, is_absent, set_default, set_default_text, text, text_at};

pub(super) fn deployment(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = child(spec, "strategy") {
        set_default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }
    template(spec);
}

pub(super) fn replica_set(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    set_default(spec, "replicas", 1);
    template(spec);
}

pub(super) fn job(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    if is_absent(spec, "completions") && is_absent(spec, "parallelism") {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    // With a limit per index the overall one is out of the way.
    let backoff_limit = if is_absent(spec, "backoffLimitPerIndex") { 6 } else { i32::MAX };
    set_default(spec, "backoffLimit", backoff_limit);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    let replacement = if is_absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    set_default(spec, "podReplacementPolicy", replacement);
    template(spec);
}

/// A job selects its pods by its own uid, unless its writer takes that over.
pub(super) fn job_selector(object: &mut Value) {
    let uid = text_at(object, "/metadata/uid").to_owned();
    let name = text_at(object, "/metadata/name").to_owned();
    if uid.is_empty() || object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let Some(spec) = child(object, "spec") else { return };
    if let Some(labels) =
        child(spec, "template").and_then(|t| child(t, "metadata")).and_then(|m| child(m, "labels"))
    {
        // The short forms are for clients from before the labels had a prefix.
        for key in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
            labels[key] = uid.clone().into();
        }
        for key in ["batch.kubernetes.io/job-name", "job-name"] {
            labels[key] = name.clone().into();
        }
    }
    set_default(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
}

fn template(spec: &mut Value) {
    if let Some(pod_spec) = child(spec, "template").and_then(|t| child(t, "spec")) {
        pod::spec(pod_spec);
    }
}
