//! Removing objects: at once, after a grace period, or after their finalizers.

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use weft_api::{registry::Resource, status, status::Status};

use super::{decode, list, render::Renderer};
use crate::{
    admission::{self, finalizers},
    context::Context,
    storage::{Stored, WriteError},
    wire::{
        body::{self, Body},
        params::Params,
    },
};

const ATTEMPTS: usize = 32;
/// Pods that say nothing get this; as Kubernetes.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Namespaces without which the cluster does not work.
const PROTECTED: &[&str] = &["default", "kube-system", "kube-public"];

/// How to delete, from body and parameters.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    grace_period_seconds: Option<i64>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    preconditions: Option<Preconditions>,
    dry_run: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// What became of the object.
pub(crate) enum Deleted {
    /// It is gone; this was its last state.
    Gone(Stored),
    /// It will go, when its grace period is over and its finalizers are done.
    Going(Stored),
}

pub(crate) async fn delete(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::read(context, body).await?;
    let renderer = Renderer::new(context)?;
    Ok(match delete_one(context, context.name()?, &options).await? {
        Deleted::Going(stored) => renderer.respond(StatusCode::OK, &stored),
        // These answer with the object where others answer with a Status; clients are generated from that.
        Deleted::Gone(stored)
            if matches!(context.resource.plural, "pods" | "services" | "serviceaccounts") =>
        {
            renderer.respond(StatusCode::OK, &stored)
        }
        Deleted::Gone(stored) => {
            let object = stored.value();
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            body::json(StatusCode::OK, &status::success(context.resource, context.name()?, uid))
        }
    })
}

pub(crate) async fn collection(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let options = DeleteOptions::read(context, body).await?;
    let params = context.params.list(context.resource)?;
    let page = list::page(context, &params).await.map_err(|error| error.status)?;
    let mut items = Vec::new();
    for object in page.objects {
        let value = object.value();
        let (namespace, name) = (&value["metadata"]["namespace"], &value["metadata"]["name"]);
        let Some(name) = name.as_str() else { continue };
        match delete_at(context, namespace.as_str(), name, &options).await {
            Ok(Deleted::Gone(stored) | Deleted::Going(stored)) => {
                items.push(Renderer::new(context)?.value(&stored.bytes));
            }
            // Somebody else was faster.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let list = json!({
        "kind": context.resource.list_kind(),
        "apiVersion": context.resource.api_version(),
        "metadata": {"resourceVersion": context.app.storage.cache.revision().to_string()},
        "items": items,
    });
    Ok(body::json(StatusCode::OK, &list))
}

pub(crate) async fn delete_one(
    context: &Context,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    delete_at(context, context.namespace(), name, options).await
}

async fn delete_at(
    context: &Context,
    namespace: Option<&str>,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let (resource, storage) = (context.resource, &context.app.storage);
    if resource.plural == "namespaces" && PROTECTED.contains(&name) {
        return Err(Status::forbidden(resource, name, "this namespace may not be deleted"));
    }
    for _ in 0..ATTEMPTS {
        let stored = storage.get(resource, namespace, name).await?;
        let old = stored.value();
        if resource.plural == "pods" {
            context.check_pod(&old)?;
        }
        options.check(resource, name, &old)?;
        let mut new = old.clone();
        options.mark(resource, &mut new, Timestamp::now());
        let gone = admission::is_gone(resource, &new);
        if options.is_dry() || (!gone && new == old) {
            return Ok(if gone { Deleted::Gone(stored) } else { Deleted::Going(stored) });
        }
        let written = if gone {
            let removed = storage.remove(resource, &new, stored.revision).await;
            removed.map(|()| Deleted::Gone(stored))
        } else {
            admission::count_generation(resource, &mut new, true);
            storage.put(resource, &new, Some(stored.revision)).await.map(Deleted::Going)
        };
        match written {
            Ok(deleted) => {
                if matches!(deleted, Deleted::Gone(_)) {
                    admission::released(&context.app.services, resource, &new);
                }
                return Ok(deleted);
            }
            Err(WriteError::Conflict) => {}
            Err(WriteError::Failed(status)) => return Err(status),
        }
    }
    Err(Status::stale(resource, name))
}

// === impl DeleteOptions ===

impl DeleteOptions {
    async fn read(context: &Context, body: Body) -> Result<Self, Status> {
        let decoded = decode::read(&context.headers, body).await?;
        let kind = decoded.value["kind"].as_str();
        if !matches!(kind, None | Some("" | "DeleteOptions")) {
            return Err(Status::bad_request("the body of a deletion must be of kind DeleteOptions"));
        }
        Self::from_value(decoded.value, &context.params)
    }

    /// Options as they stand in a body; parameters count where the body is silent.
    pub(crate) fn from_value(value: Value, params: &Params) -> Result<Self, Status> {
        let options = serde_json::from_value(value);
        let mut options: Self = options
            .map_err(|error| Status::bad_request(format!("the DeleteOptions are not valid: {error}")))?;
        if options.grace_period_seconds.is_none() {
            options.grace_period_seconds = params.number("gracePeriodSeconds")?;
        }
        if options.propagation_policy.is_none() {
            options.propagation_policy = params.get("propagationPolicy").map(str::to_owned);
        }
        if options.orphan_dependents.is_none() && params.get("orphanDependents").is_some() {
            options.orphan_dependents = Some(params.flag("orphanDependents"));
        }
        if params.write()?.dry_run {
            options.dry_run = vec!["All".to_owned()];
        }
        let unsupported = |field: &str, value: &str, supported: &str| {
            let message = format!("{field}: Unsupported value: {value:?}: supported values: {supported}");
            Err(Status::new(422, "Invalid", message))
        };
        if let Some(other) = options.dry_run.iter().find(|value| *value != "All") {
            return unsupported("dryRun", other, "\"All\"");
        }
        match options.propagation_policy.as_deref() {
            None | Some("Background" | "Foreground" | "Orphan") => {}
            Some(other) => {
                return unsupported("propagationPolicy", other, "\"Background\", \"Foreground\", \"Orphan\"");
            }
        }
        if options.propagation_policy.is_some() && options.orphan_dependents.is_some() {
            let message = "orphanDependents and propagationPolicy cannot be both set";
            return Err(Status::new(422, "Invalid", message));
        }
        Ok(options)
    }

    fn is_dry(&self) -> bool {
        !self.dry_run.is_empty()
    }

    fn check(&self, resource: &Resource, name: &str, object: &Value) -> Result<(), Status> {
        let Some(preconditions) = &self.preconditions else { return Ok(()) };
        let pairs = [
            ("UID", &preconditions.uid, &object["metadata"]["uid"]),
            ("ResourceVersion", &preconditions.resource_version, &object["metadata"]["resourceVersion"]),
        ];
        for (what, wanted, actual) in pairs {
            let actual = actual.as_str().unwrap_or_default();
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != actual) {
                let why = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({actual}). The \
                     object might have been deleted and then recreated"
                );
                return Err(Status::conflict(resource, name, &why));
            }
        }
        Ok(())
    }

    /// Marks an object as deleted, or shortens the grace period of one that is.
    fn mark(&self, resource: &Resource, object: &mut Value, now: Timestamp) {
        match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some("Orphan"), _) | (None, Some(true)) => {
                finalizers::set(object, finalizers::ORPHAN, true);
                finalizers::set(object, finalizers::FOREGROUND, false);
            }
            (Some("Foreground"), _) => {
                finalizers::set(object, finalizers::ORPHAN, false);
                finalizers::set(object, finalizers::FOREGROUND, true);
            }
            (Some(_), _) | (None, Some(false)) => {
                finalizers::set(object, finalizers::ORPHAN, false);
                finalizers::set(object, finalizers::FOREGROUND, false);
            }
            (None, None) => {}
        }
        let mut grace = if resource.plural == "pods" { self.pod_grace(object) } else { 0 };
        let before = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
        let deleting = object["metadata"].get("deletionTimestamp").is_some();
        if deleting {
            // Once told, a period only gets shorter, and only on request.
            let before = before.unwrap_or(0);
            if self.grace_period_seconds.is_none() || grace >= before {
                grace = before;
            }
            if grace == before {
                return;
            }
        }
        let end = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        object["metadata"]["deletionTimestamp"] = format!("{end:.0}").into();
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        if resource.plural == "namespaces" {
            object["status"]["phase"] = "Terminating".into();
        }
    }

    /// A pod that no agent has, or whose containers have ended, needs no time to end.
    fn pod_grace(&self, pod: &Value) -> i64 {
        let assigned = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if !assigned || ended {
            return 0;
        }
        match self.grace_period_seconds.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()) {
            Some(seconds) if seconds < 0 => 1,
            Some(seconds) => seconds,
            None => DEFAULT_GRACE_SECONDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_api::registry;

    use super::*;

    fn marked(options: Value, mut object: Value) -> Value {
        let options = DeleteOptions::from_value(options, &Params::default()).unwrap();
        options.mark(registry::find("", "v1", "pods").unwrap(), &mut object, Timestamp::UNIX_EPOCH);
        object
    }

    #[test]
    fn a_pod_that_runs_gets_its_grace_period_and_others_none() {
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 7}});
        let marked_pod = marked(json!({}), pod.clone());
        assert_eq!(marked_pod["metadata"]["deletionGracePeriodSeconds"], 7);
        assert_eq!(marked_pod["metadata"]["deletionTimestamp"], "1970-01-01T00:00:07Z");
        assert_eq!(
            marked(json!({"gracePeriodSeconds": 0}), pod)["metadata"]["deletionGracePeriodSeconds"],
            0
        );
        let unscheduled = marked(json!({}), json!({"metadata": {}, "spec": {}}));
        assert_eq!(unscheduled["metadata"]["deletionGracePeriodSeconds"], 0);
    }

    #[test]
    fn a_grace_period_only_gets_shorter() {
        let pod = json!({"metadata": {}, "spec": {"nodeName": "n"}});
        let first = marked(json!({"gracePeriodSeconds": 20}), pod);
        assert_eq!(marked(json!({}), first.clone()), first);
        assert_eq!(marked(json!({"gracePeriodSeconds": 60}), first.clone()), first);
        let shorter = marked(json!({"gracePeriodSeconds": 5}), first);
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    }

    #[test]
    fn policies_become_finalizers() {
        let finalizers = |policy: &str| {
            let object = json!({"metadata": {"finalizers": ["orphan"]}, "spec": {}});
            marked(json!({"propagationPolicy": policy}), object)["metadata"]["finalizers"].clone()
        };
        assert_eq!(finalizers("Foreground"), json!(["foregroundDeletion"]));
        assert_eq!(finalizers("Orphan"), json!(["orphan"]));
        assert_eq!(finalizers("Background"), Value::Null);
        let wrong = json!({"propagationPolicy": "Sideways"});
        assert_eq!(DeleteOptions::from_value(wrong, &Params::default()).unwrap_err().code, 422);
    }
}
