//! The values that Kubernetes fills in where an object says nothing.

mod pod;
mod workload;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::access::{child, int, is_absent, items_mut, set_default, set_default_text, text, text_at};
use crate::registry::Resource;

/// Fills in the defaults of the kind. Doing it again changes nothing, so every write may do it.
pub fn apply(res: &Resource, object: &mut Value) {
    match (res.group, res.kind) {
        ("", "Pod") => pod::apply(object),
        ("", "Service") => service(object),
        ("", "Secret") => secret(object),
        ("", "Namespace") => namespace(object),
        ("", "Node") => node(object),
        ("apps", "Deployment") => workload::deployment(object),
        ("apps", "ReplicaSet") => workload::replica_set(object),
        ("batch", "Job") => workload::job(object),
        ("discovery.k8s.io", "EndpointSlice") => endpoint_slice(object),
        _ => {}
    }
}

/// What a new object gets on top of [`apply`], once `metadata.uid` is set: the initial status, the admission defaults of
/// pods, the selector of jobs.
pub fn on_create(res: &Resource, object: &mut Value) {
    match (res.group, res.kind) {
        ("", "Pod") => pod::on_create(object),
        ("", "Namespace") => {
            if let Some(spec) = child(object, "spec") {
                set_default(spec, "finalizers", json!(["kubernetes"]));
            }
            set_status(object, json!({"phase": "Active"}));
        }
        ("batch", "Job") => workload::job_selector(object),
        _ => {}
    }
}

/// What a changed object keeps from the old one where its writer leaves it out, because the server had set it.
pub fn on_update(res: &Resource, new: &mut Value, old: &Value) {
    match (res.group, res.kind) {
        ("", "Service") => keep_allocated(new, old),
        // Only the finalize sub-resource lets go of a namespace.
        ("", "Namespace") => {
            if let (Some(spec), Some(finalizers)) = (child(new, "spec"), old.pointer("/spec/finalizers")) {
                spec["finalizers"] = finalizers.clone();
            }
        }
        _ => {}
    }
}

/// A Service keeps its addresses unless it becomes an ExternalName or says otherwise.
fn keep_allocated(new: &mut Value, old: &Value) {
    let external = |object: &Value| text_at(object, "/spec/type") == "ExternalName";
    if external(new) || external(old) {
        return;
    }
    let (Some(spec), Some(old_spec)) = (child(new, "spec"), old.get("spec")) else { return };
    let address = text(old_spec, "clusterIP").to_owned();
    if !address.is_empty() {
        set_default_text(spec, "clusterIP", address);
    }
    if text(spec, "clusterIP") == text(old_spec, "clusterIP") {
        for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = old_spec.get(field) {
                set_default(spec, field, value.clone());
            }
        }
    }
}

fn set_status(object: &mut Value, status: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("status".into(), status);
    }
}

fn namespace(object: &mut Value) {
    let name = text_at(object, "/metadata/name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(labels) = child(object, "metadata").and_then(|m| child(m, "labels")) {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
}

fn node(object: &mut Value) {
    if let Some(status) = object.get_mut("status")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        set_default(status, "allocatable", capacity);
    }
}

fn service(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    set_default_text(spec, "sessionAffinity", "None");
    set_default_text(spec, "type", "ClusterIP");
    let service_type = text(spec, "type").to_owned();
    if text(spec, "sessionAffinity") == "ClientIP"
        && let Some(client) = child(spec, "sessionAffinityConfig").and_then(|c| child(c, "clientIP"))
    {
        set_default(client, "timeoutSeconds", 10_800);
    }
    for port in items_mut(spec, "ports") {
        set_default_text(port, "protocol", "TCP");
        let unset = int(port, "targetPort") == Some(0) || port.get("targetPort") == Some(&json!(""));
        if (unset || is_absent(port, "targetPort"))
            && let Some(number) = port.get("port").cloned()
        {
            port["targetPort"] = number;
        }
    }
    if service_type != "ExternalName" {
        set_default_text(spec, "internalTrafficPolicy", "Cluster");
        set_default_text(spec, "ipFamilyPolicy", "SingleStack");
        set_default(spec, "ipFamilies", json!(["IPv4"]));
    }
    if matches!(service_type.as_str(), "NodePort" | "LoadBalancer") {
        set_default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// `stringData` is a convenience for writers: it goes into `data` and is never read back.
fn secret(object: &mut Value) {
    set_default_text(object, "type", "Opaque");
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    if let Some(data) = data.as_object_mut() {
        for (key, value) in plain {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
        }
    }
}

fn endpoint_slice(object: &mut Value) {
    for port in items_mut(object, "ports") {
        set_default(port, "name", "");
        set_default_text(port, "protocol", "TCP");
    }
}

#[cfg(test)]
mod tests;
