//! What the handlers of one request share.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response};
use serde_json::Value;
use weft_api::{registry::Resource, status::Status};

use crate::{
    app::App,
    auth::{Identity, authz::Decision},
    wire::{body::Body, params::Params, path::ResourcePath},
};

/// A request for a resource, understood and allowed.
pub(crate) struct Context {
    pub(crate) app: Arc<App>,
    pub(crate) resource: &'static Resource,
    pub(crate) path: ResourcePath,
    pub(crate) params: Params,
    /// The query as it was sent.
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) identity: Identity,
    pub(crate) decision: Decision,
}

impl Context {
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.path.namespace.as_deref()
    }

    /// The name of the object; requests for a whole collection do not get to who asks for it.
    pub(crate) fn name(&self) -> Result<&str, Status> {
        self.path.name.as_deref().ok_or_else(Status::method_not_allowed)
    }

    /// Refuses a node's agent every change of its pods that is neither of the status nor of labels and annotations.
    pub(crate) fn check_pod_change(&self, new: &Value, old: &Value) -> Result<(), Status> {
        let same = |part: &str, field: &str| new[part].get(field) == old[part].get(field);
        let kept = new.get("spec") == old.get("spec")
            && same("metadata", "finalizers")
            && same("metadata", "ownerReferences");
        if self.decision != Decision::OwnPodsOnly || kept {
            return Ok(());
        }
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        let why = "a node can only change the status, the labels and the annotations of its pods";
        Err(Status::forbidden(self.resource, name, why))
    }

    /// Refuses a node's agent a new object in the name of another node.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), Status> {
        if self.decision != Decision::OwnNameOnly || Some(name) == self.identity.node() {
            return Ok(());
        }
        let why = format!(
            "node {:?} can only make what has its own name",
            self.identity.node().unwrap_or_default()
        );
        Err(Status::forbidden(self.resource, name, &why))
    }

    /// Refuses a node's agent a pod of another node.
    pub(crate) fn check_pod(&self, pod: &Value) -> Result<(), Status> {
        if self.decision != Decision::OwnPodsOnly || pod["spec"]["nodeName"].as_str() == self.identity.node()
        {
            return Ok(());
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let why = format!(
            "node {:?} can only change pods that run on it",
            self.identity.node().unwrap_or_default()
        );
        Err(Status::forbidden(self.resource, name, &why))
    }
}

/// Adds what a client should know although its request succeeded.
pub(crate) fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning.chars().filter(|c| !c.is_control()).collect();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
