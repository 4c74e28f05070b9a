//! Rules about the kinds that make pods.

use serde_json::Value;

use super::{Errors, FieldError, pod};
use crate::access::{int, text, text_at};
use crate::selector::LabelSelector;

pub(super) fn deployment(object: &Value, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    selector_and_template(object, "deployment", errors);
    pod::template(object, &["Always"], errors);
    non_negative(
        spec,
        &["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        errors,
    );
    if let Some(deadline) = int(spec, "progressDeadlineSeconds")
        && deadline >= 0
        && deadline <= int(spec, "minReadySeconds").unwrap_or(0)
    {
        errors.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
    strategy(spec, errors);
}

pub(super) fn replica_set(object: &Value, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    selector_and_template(object, "ReplicaSet", errors);
    pod::template(object, &["Always"], errors);
    non_negative(spec, &["replicas", "minReadySeconds"], errors);
}

pub(super) fn job(object: &Value, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    pod::template(object, &["OnFailure", "Never"], errors);
    non_negative(
        spec,
        &[
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "backoffLimitPerIndex",
            "ttlSecondsAfterFinished",
        ],
        errors,
    );
    let mode = text(spec, "completionMode");
    errors.one_of("spec.completionMode", mode, &["NonIndexed", "Indexed"]);
    if mode == "Indexed" && int(spec, "completions").is_none() {
        errors.required("spec.completions", "when completion mode is Indexed");
    }
    errors.one_of(
        "spec.podReplacementPolicy",
        text(spec, "podReplacementPolicy"),
        &["Failed", "TerminatingOrFailed"],
    );
    if let Some(selector) = spec.get("selector") {
        check_selector(selector, object, errors);
    }
}

fn non_negative(spec: &Value, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        errors.at_least(format!("spec.{field}"), int(spec, field), 0);
    }
}

fn selector_and_template(object: &Value, kind: &str, errors: &mut Errors) {
    match object.pointer("/spec/selector").filter(|s| !s.is_null()) {
        None => errors.required("spec.selector", ""),
        Some(selector) => {
            if LabelSelector::from_object(selector).is_ok_and(|s| s.is_empty()) {
                errors.invalid(
                    "spec.selector",
                    selector.clone(),
                    &format!("empty selector is invalid for {kind}"),
                );
                return;
            }
            check_selector(selector, object, errors);
        }
    }
}

fn check_selector(selector: &Value, object: &Value, errors: &mut Errors) {
    let parsed = match LabelSelector::from_object(selector) {
        Ok(parsed) => parsed,
        Err(error) => {
            errors.invalid("spec.selector", selector.clone(), &error.to_string());
            return;
        }
    };
    let labels = object.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
    if !parsed.matches(labels) {
        errors.invalid(
            "spec.template.metadata.labels",
            labels.clone(),
            "`selector` does not match template `labels`",
        );
    }
}

fn strategy(spec: &Value, errors: &mut Errors) {
    let strategy_type = text_at(spec, "/strategy/type");
    errors.one_of("spec.strategy.type", strategy_type, &["Recreate", "RollingUpdate"]);
    let Some(rolling) = spec.pointer("/strategy/rollingUpdate").filter(|r| !r.is_null()) else { return };
    if strategy_type == "Recreate" {
        errors.add(FieldError::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ));
        return;
    }
    let path = |field: &str| format!("spec.strategy.rollingUpdate.{field}");
    let mut amounts = [None, None];
    for (field, amount) in ["maxUnavailable", "maxSurge"].into_iter().zip(&mut amounts) {
        match rolling.get(field).filter(|v| !v.is_null()) {
            None => {}
            Some(value) => match int_or_percent(value) {
                Some(n) => *amount = Some(n),
                None if value.is_number() => {
                    errors.invalid(path(field), value.clone(), "must be greater than or equal to 0");
                }
                None => errors.invalid(
                    path(field),
                    value.clone(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                     regex used for validation is '[0-9]+%')",
                ),
            },
        }
    }
    if let [Some(0), Some(0)] = amounts {
        errors.invalid(
            path("maxUnavailable"),
            rolling["maxUnavailable"].clone(),
            "may not be 0 when `maxSurge` is 0",
        );
    }
    let unavailable = rolling.get("maxUnavailable").unwrap_or(&Value::Null);
    if unavailable.is_string() && amounts[0].is_some_and(|n| n > 100) {
        errors.invalid(path("maxUnavailable"), unavailable.clone(), "must not be greater than 100%");
    }
}

/// The number of a non-negative integer or of a percentage.
fn int_or_percent(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().filter(|n| *n >= 0),
        Value::String(text) => {
            let digits = text.strip_suffix('%')?;
            if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
        }
        _ => None,
    }
}
