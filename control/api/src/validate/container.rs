//! Rules about one container.

use std::collections::HashSet;

use serde_json::Value;

use super::names::PORT_NAME_HINT;
use super::{Errors, FieldError, is_port_name};
use crate::access::{entries, int, items, text};
use crate::quantity::Quantity;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

pub(super) fn check(path: &str, container: &Value, volumes: &HashSet<&str>, init: bool, errors: &mut Errors) {
    errors.dns_label(format!("{path}.name"), text(container, "name"));
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(format!("{path}.image"), "");
    } else if image.trim() != image {
        errors.invalid(format!("{path}.image"), image, "must not have leading or trailing whitespace");
    }
    errors.one_of(format!("{path}.imagePullPolicy"), text(container, "imagePullPolicy"), PULL_POLICIES);
    errors.one_of(
        format!("{path}.terminationMessagePolicy"),
        text(container, "terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
    );
    ports(path, container, errors);
    env(path, container, errors);
    resources(path, container, errors);
    mounts(path, container, volumes, errors);
    // Only a container that runs beside the others, not one that runs before them, can be probed.
    let probed = !init || text(container, "restartPolicy") == "Always";
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(name).filter(|p| !p.is_null()) else { continue };
        if probed {
            self::probe(&format!("{path}.{name}"), probe, name != "readinessProbe", errors);
        } else {
            errors.add(FieldError::forbidden(
                format!("{path}.{name}"),
                "may not be set for init containers without restartPolicy=Always",
            ));
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook_value) = container.pointer(&format!("/lifecycle/{hook}")) {
            let path = format!("{path}.lifecycle.{hook}");
            if !["exec", "httpGet", "tcpSocket", "sleep"].iter().any(|h| hook_value.get(h).is_some()) {
                errors.required(path, "must specify a handler type");
            }
        }
    }
}

fn ports(path: &str, container: &Value, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (index, port) in items(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        let name = text(port, "name");
        if !name.is_empty() {
            if !is_port_name(name) {
                errors.invalid(format!("{path}.name"), name, PORT_NAME_HINT);
            }
            errors.unique(format!("{path}.name"), name, &mut names);
        }
        errors.port(format!("{path}.containerPort"), int(port, "containerPort"));
        if int(port, "hostPort").is_some_and(|p| p != 0) {
            errors.port(format!("{path}.hostPort"), int(port, "hostPort"));
        }
        errors.one_of(format!("{path}.protocol"), text(port, "protocol"), PROTOCOLS);
    }
}

fn env(path: &str, container: &Value, errors: &mut Errors) {
    for (index, variable) in items(container, "env").iter().enumerate() {
        let path = format!("{path}.env[{index}]");
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if name.bytes().any(|b| b == b'=' || !(b' '..=b'~').contains(&b)) {
            errors.invalid(
                format!("{path}.name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            );
        }
        let Some(source) = variable.get("valueFrom").filter(|v| !v.is_null()) else { continue };
        let sources = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
        let count = sources.iter().filter(|s| source.get(s).is_some_and(|v| !v.is_null())).count();
        if !text(variable, "value").is_empty() && count > 0 {
            errors.invalid(format!("{path}.valueFrom"), "", "may not be specified when `value` is not empty");
        }
        match count {
            0 => errors.invalid(
                format!("{path}.valueFrom"),
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            ),
            1 => {}
            _ => errors.invalid(
                format!("{path}.valueFrom"),
                "",
                "may not have more than one field specified at a time",
            ),
        }
        for (source_name, field) in [
            ("fieldRef", "fieldPath"),
            ("resourceFieldRef", "resource"),
            ("configMapKeyRef", "key"),
            ("secretKeyRef", "key"),
        ] {
            if let Some(reference) = source.get(source_name)
                && text(reference, field).is_empty()
            {
                errors.required(format!("{path}.valueFrom.{source_name}.{field}"), "");
            }
        }
    }
}

fn resources(path: &str, container: &Value, errors: &mut Errors) {
    let Some(resources) = container.get("resources") else { return };
    for kind in ["limits", "requests"] {
        for (name, amount) in entries(resources, kind) {
            let path = format!("{path}.resources.{kind}[{name}]");
            match Quantity::from_value(amount) {
                Err(error) => errors.invalid(path, amount.clone(), &error.to_string()),
                Ok(amount) if amount.is_negative() => {
                    errors.invalid(path, amount.to_string(), "must be greater than or equal to 0");
                }
                Ok(_) => {}
            }
        }
    }
    for (name, request) in entries(resources, "requests") {
        let limit = resources.get("limits").and_then(|l| l.get(name));
        let (Ok(request), Some(Ok(limit))) = (Quantity::from_value(request), limit.map(Quantity::from_value))
        else {
            continue;
        };
        if request > limit {
            errors.invalid(
                format!("{path}.resources.requests"),
                request.to_string(),
                &format!("must be less than or equal to {name} limit of {limit}"),
            );
        }
    }
}

fn mounts(path: &str, container: &Value, volumes: &HashSet<&str>, errors: &mut Errors) {
    let mut paths = HashSet::new();
    for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(format!("{path}.name"), "");
        } else if !volumes.contains(name) {
            errors.add(FieldError::not_found(format!("{path}.name"), name));
        }
        let target = text(mount, "mountPath");
        if target.is_empty() {
            errors.required(format!("{path}.mountPath"), "");
        } else if !paths.insert(target) {
            errors.invalid(format!("{path}.mountPath"), target, "must be unique");
        }
        let sub_path = text(mount, "subPath");
        if sub_path.starts_with('/') {
            errors.invalid(format!("{path}.subPath"), sub_path, "must be a relative path");
        }
        if sub_path.split('/').any(|part| part == "..") {
            errors.invalid(format!("{path}.subPath"), sub_path, "must not contain '..'");
        }
    }
}

fn probe(path: &str, probe: &Value, success_is_one: bool, errors: &mut Errors) {
    let handlers: Vec<&str> =
        HANDLERS.into_iter().filter(|handler| probe.get(handler).is_some_and(|h| !h.is_null())).collect();
    match handlers.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [_] => {}
        [_, others @ ..] => {
            for other in others {
                errors.add(FieldError::forbidden(
                    format!("{path}.{other}"),
                    "may not specify more than 1 handler type",
                ));
            }
        }
    }
    for handler in ["httpGet", "tcpSocket"] {
        if let Some(target) = probe.get(handler) {
            errors.port_or_name(format!("{path}.{handler}.port"), target.get("port"));
        }
    }
    if let Some(grpc) = probe.get("grpc") {
        errors.port(format!("{path}.grpc.port"), int(grpc, "port"));
    }
    if let Some(get) = probe.get("httpGet") {
        errors.one_of(format!("{path}.httpGet.scheme"), text(get, "scheme"), &["HTTP", "HTTPS"]);
    }
    if let Some(exec) = probe.get("exec")
        && items(exec, "command").is_empty()
    {
        errors.required(format!("{path}.exec.command"), "");
    }
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        errors.at_least(format!("{path}.{field}"), int(probe, field), 0);
    }
    if success_is_one && int(probe, "successThreshold").is_some_and(|n| n > 1) {
        errors.invalid(format!("{path}.successThreshold"), int(probe, "successThreshold"), "must be 1");
    }
}
