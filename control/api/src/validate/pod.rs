//! Rules about pods and pod templates.

use std::collections::HashSet;

use serde_json::Value;

use super::names::{DNS_LABEL_HINT, DNS_SUBDOMAIN_HINT, QUALIFIED_NAME_HINT};
use super::{Errors, FieldError, container, is_dns_label, is_dns_subdomain, is_qualified_name, meta};
use crate::access::{int, items, items_at, text};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn pod(object: &Value, errors: &mut Errors) {
    spec("spec", object.get("spec").unwrap_or(&Value::Null), RESTART_POLICIES, errors);
}

/// The template under `spec.template`, whose pods may have one of these restart policies.
pub(super) fn template(object: &Value, restart_policies: &[&str], errors: &mut Errors) {
    let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
    let template_meta = template.get("metadata").unwrap_or(&Value::Null);
    meta::labels("spec.template.metadata.labels", template_meta, "labels", errors);
    meta::annotations("spec.template.metadata.annotations", template_meta, errors);
    spec("spec.template.spec", template.get("spec").unwrap_or(&Value::Null), restart_policies, errors);
}

fn spec(path: &str, spec: &Value, restart_policies: &[&str], errors: &mut Errors) {
    let volumes = volumes(path, spec, errors);
    if items(spec, "containers").is_empty() {
        errors.required(format!("{path}.containers"), "");
    }
    let mut names = HashSet::new();
    for list in ["containers", "initContainers"] {
        for (index, item) in items(spec, list).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            errors.unique(format!("{path}.name"), text(item, "name"), &mut names);
            container::check(&path, item, &volumes, list == "initContainers", errors);
        }
    }
    errors.one_of(format!("{path}.restartPolicy"), text(spec, "restartPolicy"), restart_policies);
    errors.one_of(format!("{path}.dnsPolicy"), text(spec, "dnsPolicy"), DNS_POLICIES);
    errors.at_least(
        format!("{path}.terminationGracePeriodSeconds"),
        int(spec, "terminationGracePeriodSeconds"),
        0,
    );
    if let Some(seconds) =
        int(spec, "activeDeadlineSeconds").filter(|s| !(1..=i64::from(i32::MAX)).contains(s))
    {
        errors.invalid(
            format!("{path}.activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    meta::labels(&format!("{path}.nodeSelector"), spec, "nodeSelector", errors);
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() && !is_dns_label(name) {
            errors.invalid(format!("{path}.{field}"), name, DNS_LABEL_HINT);
        }
    }
    for field in ["nodeName", "serviceAccountName"] {
        let name = text(spec, field);
        if !name.is_empty() && !is_dns_subdomain(name) {
            errors.invalid(format!("{path}.{field}"), name, DNS_SUBDOMAIN_HINT);
        }
    }
    tolerations(path, spec, errors);
    affinity_terms(path, spec, errors);
}

/// Checks the volumes and returns their names.
fn volumes<'a>(path: &str, spec: &'a Value, errors: &mut Errors) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let name = text(volume, "name");
        errors.dns_label(format!("{path}.name"), name);
        errors.unique(format!("{path}.name"), name, &mut names);
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key)
            .collect();
        match sources.as_slice() {
            [] => errors.required(&path, "must specify a volume type"),
            [_] => {}
            [_, others @ ..] => {
                for other in others {
                    errors.add(FieldError::forbidden(
                        format!("{path}.{other}"),
                        "may not specify more than 1 volume type",
                    ));
                }
            }
        }
        for (source, field) in [
            ("secret", "secretName"),
            ("configMap", "name"),
            ("hostPath", "path"),
            ("persistentVolumeClaim", "claimName"),
        ] {
            if let Some(source_value) = volume.get(source)
                && text(source_value, field).is_empty()
            {
                errors.required(format!("{path}.{source}.{field}"), "");
            }
        }
    }
    names
}

fn tolerations(path: &str, spec: &Value, errors: &mut Errors) {
    for (index, toleration) in items(spec, "tolerations").iter().enumerate() {
        let path = format!("{path}.tolerations[{index}]");
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if !key.is_empty() && !is_qualified_name(key) {
            errors.invalid(format!("{path}.key"), key, QUALIFIED_NAME_HINT);
        }
        if key.is_empty() && operator != "Exists" {
            errors.invalid(
                format!("{path}.operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if operator == "Exists" && !text(toleration, "value").is_empty() {
            errors.invalid(
                format!("{path}.operator"),
                toleration.clone(),
                "value must be empty when `operator` is 'Exists'",
            );
        }
        errors.one_of(format!("{path}.operator"), operator, &["Equal", "Exists"]);
        effect(&format!("{path}.effect"), text(toleration, "effect"), errors);
        if int(toleration, "tolerationSeconds").is_some() && text(toleration, "effect") != "NoExecute" {
            errors.invalid(
                format!("{path}.effect"),
                text(toleration, "effect"),
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
    }
}

/// The effect of a taint or toleration; absent is allowed.
pub(super) fn effect(path: &str, effect: &str, errors: &mut Errors) {
    errors.one_of(path, effect, TAINT_EFFECTS);
}

fn affinity_terms(path: &str, spec: &Value, errors: &mut Errors) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (list, term_field) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm"),
        ] {
            for (index, item) in items_at(spec, &format!("/affinity/{kind}/{list}")).iter().enumerate() {
                let mut path = format!("{path}.affinity.{kind}.{list}[{index}]");
                let term = if term_field.is_empty() {
                    item
                } else {
                    if !int(item, "weight").is_some_and(|w| (1..=100).contains(&w)) {
                        errors.invalid(
                            format!("{path}.weight"),
                            int(item, "weight"),
                            "must be in the range 1-100",
                        );
                    }
                    path = format!("{path}.{term_field}");
                    item.get(term_field).unwrap_or(&Value::Null)
                };
                if text(term, "topologyKey").is_empty() {
                    errors.required(format!("{path}.topologyKey"), "can not be empty");
                }
            }
        }
    }
}
