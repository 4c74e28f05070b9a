//! `metav1.Status`: how the API server says what went wrong.

use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::registry::Resource;
use crate::validate::FieldError;

/// A failure as Kubernetes clients expect it: HTTP code, machine-readable reason and a text for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// What the failure is about, where known.
    pub details: Option<Box<Details>>,
}

/// What a failure is about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Group of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource or kind of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Each single cause.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When a retry makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One cause of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Machine-readable reason.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// Path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

// === impl Status ===

impl Status {
    /// A failure without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    /// Adds what the failure is about.
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// 404: the object does not exist.
    pub fn not_found(res: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", res.qualified_plural()))
            .with_details(about(res, name))
    }

    /// 404: nothing is served at this path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// 409: an object of that name exists.
    pub fn already_exists(res: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", res.qualified_plural()))
            .with_details(about(res, name))
    }

    /// 409: the object is not in the state that the request expects.
    pub fn conflict(res: &Resource, name: &str, why: &str) -> Self {
        let plural = res.qualified_plural();
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {plural} \"{name}\": {why}"))
            .with_details(about(res, name))
    }

    /// 409: the request was made for an older revision of the object.
    pub fn stale(res: &Resource, name: &str) -> Self {
        Self::conflict(
            res,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422: the object breaks the rules of its kind.
    pub fn invalid(res: &Resource, name: &str, errors: Vec<FieldError>) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.kind.reason(), message: e.body(), field: e.path.clone() })
            .collect();
        Self::new(422, "Invalid", format!("{} \"{name}\" is invalid: {list}", res.qualified_kind()))
            .with_details(Details {
                name: name.into(),
                group: res.group.into(),
                kind: res.kind.into(),
                causes,
                ..Details::default()
            })
    }

    /// 422: a patch cannot be applied.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: nobody that the server knows.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: a rule about this object forbids it.
    pub fn forbidden(res: &Resource, name: &str, why: &str) -> Self {
        let plural = res.qualified_plural();
        let message = if name.is_empty() {
            format!("{plural} is forbidden: {why}")
        } else {
            format!("{plural} \"{name}\" is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).with_details(about(res, name))
    }

    /// 403 without an object.
    pub fn forbidden_path(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message).with_details(Details::default())
    }

    /// 405: the resource has no such verb.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_details(Details::default())
    }

    /// 406: no form that the client accepts.
    pub fn not_acceptable(supported: &str) -> Self {
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {supported}"))
    }

    /// 415: a body in a form that the server does not read.
    pub fn unsupported_media_type(supported: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {supported}"
            ),
        )
    }

    /// 410: the revision is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is too large.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 429: come back later.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, "TooManyRequests", message)
            .with_details(Details { retry_after_seconds: Some(retry_after_seconds), ..Details::default() })
    }

    /// 500: our own fault. The text must not tell internals.
    pub fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        let cause = Cause { reason: "InternalError", message: message.clone(), field: String::new() };
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_details(Details { causes: vec![cause], ..Details::default() })
    }

    /// 503: a part that the request needs does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: not done in time.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into())).with_details(Details::default())
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Value {
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            body["details"] = json!(details);
        }
        body
    }
}

/// The body of a successful answer that has no object to show, such as a deletion.
pub fn success(res: &Resource, name: &str, uid: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": name, "group": res.group, "kind": res.plural, "uid": uid},
    })
}

fn about(res: &Resource, name: &str) -> Details {
    Details { name: name.into(), group: res.group.into(), kind: res.plural.into(), ..Details::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use crate::validate::FieldErrorKind;

    #[test]
    fn messages_are_those_of_kubernetes() {
        let deployments = registry::find("apps", "v1", "deployments").unwrap();
        assert_eq!(Status::not_found(deployments, "web").message, "deployments.apps \"web\" not found");
        assert_eq!(
            Status::stale(deployments, "web").message,
            "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply \
             your changes to the latest version and try again"
        );
        let error = FieldError::new("spec.replicas", FieldErrorKind::Invalid)
            .value(-1)
            .detail("must be greater than or equal to 0");
        let status = Status::invalid(deployments, "web", vec![error]);
        assert_eq!(
            status.message,
            "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        let body = status.to_json();
        assert_eq!(body["details"]["causes"][0]["reason"], "FieldValueInvalid");
        assert_eq!(body["details"]["causes"][0]["field"], "spec.replicas");
        assert_eq!(body["code"], 422);
    }
}
