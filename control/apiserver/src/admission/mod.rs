//! What the server itself decides about objects: where they belong, which of their fields are its own, and when they go.

pub(crate) mod finalizers;
mod services;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use weft_api::{
    defaults, registry,
    registry::Resource,
    status::{Cause, Status},
};

pub(crate) use services::{Reservation, ServiceAddresses};

use crate::storage::Storage;

/// Metadata that the server sets at the creation and clients never change.
const SYSTEM_METADATA: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
];
/// Metadata that is left out when it is empty.
const OPTIONAL_METADATA: &[&str] = &["labels", "annotations", "finalizers", "ownerReferences"];

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status; of pods and nodes also labels and annotations, because their agents have no other way to write them.
    Status,
    /// The finalizers in the specification of a namespace.
    Finalize,
    /// The node of a pod, and the condition that tells of it.
    Binding,
}

// === impl Part ===

impl Part {
    pub(crate) fn of(subresource: Option<&str>) -> Self {
        match subresource {
            Some("status") => Self::Status,
            Some("finalize") => Self::Finalize,
            _ => Self::Main,
        }
    }
}

/// Puts an object into the namespace of its path, or refuses it if it says another.
pub(crate) fn place(resource: &Resource, namespace: Option<&str>, object: &mut Value) -> Result<(), Status> {
    if !object["metadata"].is_object() {
        if !object["metadata"].is_null() {
            return Err(Status::bad_request("metadata must be an object"));
        }
        object["metadata"] = json!({});
    }
    let said = object["metadata"]["namespace"].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    match (resource.namespaced, namespace) {
        (true, Some(namespace)) => {
            if said.as_deref().is_some_and(|said| said != namespace) {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            object["metadata"]["namespace"] = namespace.into();
            Ok(())
        }
        // Objects are only written where they live.
        (true, None) => Err(Status::method_not_allowed()),
        (false, _) => {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("namespace");
            }
            Ok(())
        }
    }
}

/// Whether new objects may be made in a namespace.
pub(crate) async fn check_namespace(
    storage: &Storage,
    resource: &Resource,
    namespace: &str,
) -> Result<(), Status> {
    let namespaces = registry::find("", "v1", "namespaces").ok_or_else(Status::no_such_path)?;
    let found = storage.get(namespaces, None, namespace).await?.value();
    if found["metadata"].get("deletionTimestamp").is_none() {
        return Ok(());
    }
    let message = format!("namespace {namespace} is being terminated");
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(resource, "", &why);
    if let Some(details) = &mut status.details {
        details.causes =
            vec![Cause { reason: "NamespaceTerminating", message, field: "metadata.namespace".into() }];
    }
    Err(status)
}

/// Gives a new object what only the server knows, and takes from it what only the server may say.
pub(crate) fn prepare_create(resource: &Resource, object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in
            ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink", "generation"]
        {
            metadata.remove(field);
        }
        metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
        metadata.insert("creationTimestamp".to_owned(), json!(format!("{:.0}", Timestamp::now())));
        if resource.has_generation() {
            metadata.insert("generation".to_owned(), json!(1));
        }
    }
    if resource.has_status() {
        match resource.plural {
            // An agent registers its node together with the node's status.
            "nodes" => {}
            "services" => object["status"] = json!({"loadBalancer": {}}),
            _ => object["status"] = json!({}),
        }
    }
    tidy(object);
    defaults::apply(resource, object);
    defaults::on_create(resource, object);
}

/// Leaves of `new` what the write is about; everything else stays as in `old`.
pub(crate) fn prepare_update(resource: &Resource, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Main => {
            keep(new, old, SYSTEM_METADATA);
            if resource.has_status() {
                replace(new, "status", old.get("status").cloned());
            }
            if resource.plural == "pods" {
                keep_pod_fields(new, old);
            }
            tidy(new);
            defaults::apply(resource, new);
        }
        Part::Status => {
            let mut result = old.clone();
            replace(&mut result, "status", new.get("status").cloned());
            if matches!(resource.plural, "pods" | "nodes") {
                for field in ["labels", "annotations"] {
                    let sent = new["metadata"].get(field).cloned();
                    if let Some(sent) = sent {
                        result["metadata"][field] = sent;
                    }
                }
            }
            *new = result;
            tidy(new);
        }
        Part::Binding => tidy(new),
        Part::Finalize => {
            let mut result = old.clone();
            let finalizers = new["spec"].get("finalizers").cloned();
            if let Some(spec) = result["spec"].as_object_mut() {
                match finalizers.filter(|list| list.as_array().is_some_and(|list| !list.is_empty())) {
                    Some(finalizers) => drop(spec.insert("finalizers".to_owned(), finalizers)),
                    None => drop(spec.remove("finalizers")),
                }
            }
            *new = result;
        }
    }
    // From here on, equal means that there is nothing to write.
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    count_generation(resource, new, part == Part::Main && is_changed(resource, new, old));
}

/// Counts a change of what the object demands.
pub(crate) fn count_generation(resource: &Resource, object: &mut Value, changed: bool) {
    if changed && resource.has_generation() {
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        object["metadata"]["generation"] = json!(generation + 1);
    }
}

/// Whether an object that is marked as deleted has nothing left to wait for.
pub(crate) fn is_gone(resource: &Resource, object: &Value) -> bool {
    let marked = object["metadata"].get("deletionTimestamp").is_some();
    let graceful = resource.plural == "pods"
        && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    marked && !graceful && finalizers::are_done(object)
}

/// Takes for a new object what it needs of what the cluster has once.
pub(crate) fn allocate_create(
    services: &Arc<ServiceAddresses>,
    resource: &Resource,
    object: &mut Value,
) -> Result<Reservation, Status> {
    if resource.plural == "services" {
        return services.allocate(resource, object, None);
    }
    Ok(Reservation::default())
}

/// As [`allocate_create`], for an object that has already taken something.
pub(crate) fn allocate_update(
    services: &Arc<ServiceAddresses>,
    resource: &Resource,
    new: &mut Value,
    old: &Value,
) -> Result<Reservation, Status> {
    if resource.plural == "services" {
        return services.allocate(resource, new, Some(old));
    }
    Ok(Reservation::default())
}

/// Gives back what a removed object had taken.
pub(crate) fn released(services: &ServiceAddresses, resource: &Resource, object: &Value) {
    if resource.plural == "services" {
        services.release(object);
    }
}

/// Clients that replace a pod often leave out what the server added to it.
fn keep_pod_fields(new: &mut Value, old: &Value) {
    let Some(spec) = new["spec"].as_object_mut() else { return };
    for field in ["nodeName", "serviceAccountName", "serviceAccount", "priority", "preemptionPolicy"] {
        if !spec.contains_key(field)
            && let Some(value) = old["spec"].get(field)
        {
            spec.insert(field.to_owned(), value.clone());
        }
    }
}

fn is_changed(resource: &Resource, new: &Value, old: &Value) -> bool {
    if resource.plural != "endpointslices" {
        return new.get("spec") != old.get("spec");
    }
    let content = |object: &Value| {
        let fields = object.as_object().into_iter().flatten();
        fields
            .filter(|(field, _)| *field != "metadata")
            .map(|(f, v)| (f.clone(), v.clone()))
            .collect::<Map<_, _>>()
    };
    content(new) != content(old)
}

fn keep(new: &mut Value, old: &Value, fields: &[&str]) {
    let Some(metadata) = new["metadata"].as_object_mut() else { return };
    for field in fields {
        match old["metadata"].get(field) {
            Some(value) => drop(metadata.insert((*field).to_owned(), value.clone())),
            None => drop(metadata.remove(*field)),
        }
    }
}

fn replace(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(fields) = object.as_object_mut() else { return };
    match value {
        Some(value) => drop(fields.insert(field.to_owned(), value)),
        None => drop(fields.remove(field)),
    }
}

/// Removes metadata that is empty or that this server does not keep.
fn tidy(object: &mut Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    metadata.remove("managedFields");
    metadata.remove("selfLink");
    for field in OPTIONAL_METADATA {
        let empty = metadata.get(*field).is_some_and(|value| match value {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        });
        if empty {
            metadata.remove(*field);
        }
    }
}

#[cfg(test)]
mod tests;
