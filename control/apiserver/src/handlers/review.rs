//! Kinds that are questions: they are answered and not stored.

use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use weft_api::{registry::Resource, status::Status};

use super::decode::{self, Expected};
use crate::{
    auth::{
        Identity,
        authz::{self, Action, Decision},
        tokens::{TokenStatus, Tokens},
    },
    wire::{
        body::{self, Body},
        params::FieldValidation,
    },
};

pub(crate) async fn create(
    resource: &'static Resource,
    identity: &Identity,
    tokens: &Tokens,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, Status> {
    let mut decoded = decode::read(headers, body).await?;
    decoded.expect(&Expected::from(resource))?;
    decoded.check(resource, FieldValidation::Ignore)?;
    let mut review = decoded.value;
    let status = match resource.kind {
        "SelfSubjectAccessReview" => access(identity, &review["spec"])?,
        "SelfSubjectRulesReview" => rules(identity),
        "SelfSubjectReview" => json!({"userInfo": identity.to_user_info()}),
        "TokenReview" => token(tokens, review["spec"]["token"].as_str().unwrap_or_default()),
        _ => return Err(Status::no_such_path()),
    };
    review["status"] = status;
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    Ok(body::json(StatusCode::CREATED, &review))
}

fn access(identity: &Identity, spec: &Value) -> Result<Value, Status> {
    fn text<'a>(attributes: &'a Value, field: &str) -> &'a str {
        attributes[field].as_str().unwrap_or_default()
    }
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let action = match (resource.is_object(), path.is_object()) {
        (true, false) => Action::Resource {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
        },
        (false, true) => Action::Path { verb: text(path, "verb"), path: text(path, "path") },
        _ => {
            let message = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            return Err(Status::unprocessable(message));
        }
    };
    Ok(match authz::decide(identity, action) {
        Decision::Allowed => json!({"allowed": true}),
        Decision::OwnPodsOnly => json!({"allowed": true, "reason": "for pods that run on this node"}),
        Decision::OwnNameOnly => json!({"allowed": true, "reason": "for objects with the name of this node"}),
        Decision::Denied => json!({"allowed": false}),
    })
}

/// The rules are code and not data, so what they come to is put into words for the few kinds of users that there are.
fn rules(identity: &Identity) -> Value {
    let rule = |verbs: &[&str], groups: &[&str], resources: &[&str]| json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    let anything =
        Action::Resource { verb: "*", group: "*", resource: "*", subresource: "", namespace: "", name: "" };
    if authz::decide(identity, anything) == Decision::Allowed {
        return json!({
            "resourceRules": [rule(&["*"], &["*"], &["*"])],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        });
    }
    let mut resources = vec![
        rule(
            &["create"],
            &["authorization.k8s.io"],
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        ),
        rule(&["create"], &["authentication.k8s.io"], &["selfsubjectreviews"]),
    ];
    if identity.node().is_some() {
        resources.push(rule(&["get", "list", "watch"], &["*"], &["*"]));
        resources.push(rule(&["create", "update", "patch"], &["", "events.k8s.io"], &["events"]));
        resources.push(rule(&["create", "update", "patch"], &[""], &["nodes", "nodes/status"]));
        resources.push(rule(&["update", "patch"], &[""], &["pods/status"]));
        resources.push(rule(&["delete"], &[""], &["pods"]));
        resources.push(rule(&["create", "update", "patch", "delete"], &["coordination.k8s.io"], &["leases"]));
    }
    let paths =
        ["/healthz", "/livez", "/readyz", "/version", "/api", "/api/*", "/apis", "/apis/*", "/openapi/*"];
    json!({
        "resourceRules": resources,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": paths}],
        // A node may write only what is its own, which these rules cannot say.
        "incomplete": identity.node().is_some(),
    })
}

fn token(tokens: &Tokens, token: &str) -> Value {
    match tokens.look_up(token, Timestamp::now()) {
        TokenStatus::Valid(identity) => json!({"authenticated": true, "user": identity.to_user_info()}),
        TokenStatus::Expired(at) => {
            json!({"authenticated": false, "error": format!("the token expired at {at:.0}")})
        }
        TokenStatus::Unknown => json!({"authenticated": false}),
    }
}
