//! Defaults of pods and pod templates.

use serde_json::{Map, Value, json};

use super::set_status;
use crate::access::{child, int, is_absent, items, items_mut, set_default, set_default_text, text};
use crate::quantity::Quantity;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub(super) fn apply(pod: &mut Value) {
    let Some(spec) = child(pod, "spec") else { return };
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
        }
    }
    self::spec(spec);
}

/// The admission defaults: who the pod runs as, how long it outlives its node, and its first status.
pub(super) fn on_create(pod: &mut Value) {
    let class = quality_of_service(pod);
    if let Some(spec) = child(pod, "spec") {
        set_default_text(spec, "serviceAccountName", "default");
        let account = spec["serviceAccountName"].clone();
        spec["serviceAccount"] = account;
        set_default(spec, "priority", 0);
        set_default(spec, "preemptionPolicy", "PreemptLowerPriority");
        for key in [NOT_READY, UNREACHABLE] {
            tolerate_for_a_while(spec, key);
        }
    }
    set_status(pod, json!({"phase": "Pending", "qosClass": class}));
}

/// Defaults of a pod specification, in a pod or in a template.
pub(super) fn spec(spec: &mut Value) {
    set_default_text(spec, "dnsPolicy", "ClusterFirst");
    set_default_text(spec, "restartPolicy", "Always");
    set_default_text(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", Map::new());
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "enableServiceLinks", true);
    // Two names of one field; the older one is kept for old clients.
    for (from, to) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        let account = text(spec, from).to_owned();
        if !account.is_empty() {
            set_default_text(spec, to, account);
        }
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            self::container(container, host_network);
        }
    }
    items_mut(spec, "volumes").for_each(volume);
}

fn container(container: &mut Value, host_network: bool) {
    let policy = if is_latest(text(container, "image")) { "Always" } else { "IfNotPresent" };
    set_default_text(container, "imagePullPolicy", policy);
    set_default_text(container, "terminationMessagePath", "/dev/termination-log");
    set_default_text(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", Map::new());
    for port in items_mut(container, "ports") {
        set_default_text(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            set_default(port, "hostPort", number);
        }
    }
    for variable in items_mut(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default_text(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|p| p.is_object()) {
            self::probe(probe);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(get) = container.pointer_mut(hook) {
            http_get(get);
        }
    }
}

fn probe(probe: &mut Value) {
    for (key, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        // Zero is not a choice for these: Kubernetes reads it as unset.
        if int(probe, key).unwrap_or(0) == 0 && (is_absent(probe, key) || probe[key].is_number()) {
            probe[key] = value.into();
        }
    }
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        set_default(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    set_default_text(get, "path", "/");
    set_default_text(get, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    if volume
        .as_object()
        .is_some_and(|fields| fields.iter().all(|(key, value)| key == "name" || value.is_null()))
    {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        set_default(path, "type", "");
    }
    if let Some(downward) = volume.get_mut("downwardAPI") {
        field_refs(downward);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items_mut(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                field_refs(downward);
            }
        }
    }
}

fn field_refs(downward: &mut Value) {
    for item in items_mut(downward, "items") {
        if let Some(field) = item.get_mut("fieldRef") {
            set_default_text(field, "apiVersion", "v1");
        }
    }
}

/// Whether an image reference means "whatever is newest": no tag and no digest, or the tag `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let Some(requests) = child(container, "resources").and_then(|r| child(r, "requests")) else { return };
    for (resource, amount) in limits {
        set_default(requests, &resource, amount);
    }
}

fn tolerate_for_a_while(spec: &mut Value, key: &str) {
    let tolerated = items(spec, "tolerations").iter().any(|t| {
        (text(t, "key") == key || text(t, "key").is_empty()) && matches!(text(t, "effect"), "NoExecute" | "")
    });
    if tolerated {
        return;
    }
    set_default(spec, "tolerations", json!([]));
    if let Some(tolerations) = spec["tolerations"].as_array_mut() {
        let toleration =
            json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        tolerations.push(toleration);
    }
}

/// Guaranteed if every container's requests equal its limits for CPU and memory, BestEffort if none has any.
fn quality_of_service(pod: &Value) -> &'static str {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let containers = || items(spec, "containers").iter().chain(items(spec, "initContainers"));
    let amount = |container: &Value, kind: &str, resource: &str| {
        let value = container.get("resources")?.get(kind)?.get(resource)?;
        Quantity::from_value(value).ok().filter(|q| !q.is_zero())
    };
    let any = containers().any(|c| {
        ["requests", "limits"]
            .iter()
            .any(|kind| ["cpu", "memory"].iter().any(|r| amount(c, kind, r).is_some()))
    });
    let guaranteed = containers().all(|c| {
        ["cpu", "memory"].iter().all(|r| match (amount(c, "requests", r), amount(c, "limits", r)) {
            (Some(request), Some(limit)) => request == limit,
            (None, Some(_)) => true,
            _ => false,
        })
    });
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
