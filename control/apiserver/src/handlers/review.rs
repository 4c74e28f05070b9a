//! Kinds that are questions: they are answered and not stored.

use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use weft_api::{registry, registry::Resource, status::Status};

use super::decode::{self, Expected};
use crate::{
    app::App,
    auth::{
        Identity,
        accounts::{Claims, ISSUER, Reading, Reference},
        authz::{self, Action, Decision},
        tokens::TokenStatus,
    },
    wire::{
        body::{self, Body},
        params::FieldValidation,
    },
};

pub(crate) async fn create(
    resource: &'static Resource,
    identity: &Identity,
    app: &App,
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
        "TokenReview" => token(app, &review["spec"]).await,
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

async fn token(app: &App, spec: &Value) -> Value {
    let (text, now) = (spec["token"].as_str().unwrap_or_default(), Timestamp::now());
    let expired = |at| json!({"authenticated": false, "error": format!("the token expired at {at:.0}")});
    match app.accounts.read(text, now) {
        Reading::Valid(claims) => return account(app, &claims, &spec["audiences"]).await,
        Reading::Expired(at) => return expired(at),
        Reading::Foreign => {}
    }
    match app.tokens.look_up(text, now) {
        TokenStatus::Valid(identity) => json!({"authenticated": true, "user": identity.to_user_info()}),
        TokenStatus::Expired(at) => expired(at),
        TokenStatus::Unknown => json!({"authenticated": false}),
    }
}

/// A token of a service account is good for the audiences that it names, and while what it is bound to exists.
async fn account(app: &App, claims: &Claims, audiences: &Value) -> Value {
    let refused = |why: String| json!({"authenticated": false, "error": why});
    let asked: Vec<&str> = match audiences.as_array() {
        Some(audiences) if !audiences.is_empty() => audiences.iter().filter_map(Value::as_str).collect(),
        _ => vec![ISSUER],
    };
    let meant: Vec<&&str> =
        asked.iter().filter(|audience| claims.aud.iter().any(|own| own == **audience)).collect();
    if meant.is_empty() {
        return refused(format!("the token is for {}, not for {}", claims.aud.join(", "), asked.join(", ")));
    }
    let private = &claims.kubernetes;
    let namespace = Some(private.namespace.as_str());
    let pod = private.pod.as_ref().map(|pod| ("pods", namespace, pod));
    let node = private.node.as_ref().map(|node| ("nodes", None, node));
    for (plural, namespace, reference) in pod.into_iter().chain(node) {
        if !exists(app, plural, namespace, reference).await {
            return refused(format!("what the token is bound to is gone: {plural} {:?}", reference.name));
        }
    }
    json!({"authenticated": true, "user": claims.identity().to_user_info(), "audiences": meant})
}

async fn exists(app: &App, plural: &str, namespace: Option<&str>, reference: &Reference) -> bool {
    let Some(resource) = registry::find("", "v1", plural) else { return false };
    let stored = app.storage.get(resource, namespace, &reference.name).await;
    stored.is_ok_and(|stored| stored.value()["metadata"]["uid"] == reference.uid.as_str())
}
