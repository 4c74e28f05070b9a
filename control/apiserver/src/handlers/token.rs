//! The sub-resource `token` of service accounts: a token for whoever is to act as one.

use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use weft_api::{registry, status::Status, validate::FieldError};

use super::decode::{self, Expected};
use crate::{
    auth::{
        accounts::{Claims, ISSUER, Private, Reference},
        authz::Decision,
    },
    context::Context,
    wire::body::{self, Body},
};

/// Kubernetes' default and least, and ours at most: nobody renews a token that a person put somewhere.
const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 366 * 24 * 3600;

/// Makes a token as the TokenRequest wishes.
pub(crate) async fn create(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let name = context.name()?;
    let namespace = context.namespace().unwrap_or_default();
    let mut decoded = decode::read(&context.headers, body).await?;
    decoded.expect(&Expected { api_version: "authentication.k8s.io/v1".to_owned(), kind: "TokenRequest" })?;
    let mut request = decoded.value;
    let spec = &request["spec"];
    let invalid = |field: &str, value: &Value, why: &str| {
        Status::invalid(context.resource, name, vec![FieldError::invalid(field, value.clone(), why)])
    };

    let seconds = match &spec["expirationSeconds"] {
        Value::Null => DEFAULT_SECONDS,
        given => given
            .as_i64()
            .filter(|seconds| (LEAST_SECONDS..=MOST_SECONDS).contains(seconds))
            .ok_or_else(|| invalid("spec.expirationSeconds", given, "must be 600 to 31622400 seconds"))?,
    };
    let audiences: Vec<String> = match &spec["audiences"] {
        Value::Null => vec![ISSUER.to_owned()],
        given => serde_json::from_value(given.clone())
            .map_err(|_| invalid("spec.audiences", given, "must be a list of texts"))?,
    };
    let bound = &spec["boundObjectRef"];
    let mut private = Private {
        namespace: namespace.to_owned(),
        serviceaccount: Reference { name: name.to_owned(), uid: String::new() },
        pod: None,
        node: None,
    };
    let kind = bound["kind"].as_str().unwrap_or_default();
    let reference = match (bound, kind) {
        (Value::Null, _) => None,
        (_, "Pod") => Some(("pods", Some(namespace))),
        (_, "Node") => Some(("nodes", None)),
        _ => return Err(invalid("spec.boundObjectRef.kind", &bound["kind"], "must be Pod or Node")),
    };
    match reference {
        Some((plural, of)) => {
            let object = get(context, plural, of, bound["name"].as_str().unwrap_or_default()).await?;
            let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
            if bound["uid"].as_str().is_some_and(|wanted| wanted != uid) {
                return Err(Status::conflict(context.resource, name, "the bound object has another uid"));
            }
            let found = Reference {
                name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
                uid: uid.to_owned(),
            };
            if kind == "Pod" {
                check_own(context, &object["spec"]["nodeName"])?;
                let account = object["spec"]["serviceAccountName"].as_str().unwrap_or("default");
                if account != name {
                    let why = format!("the pod runs as service account {account:?}");
                    return Err(invalid("spec.boundObjectRef.name", &bound["name"], &why));
                }
                private.pod = Some(found);
            } else {
                check_own(context, &object["metadata"]["name"])?;
                private.node = Some(found);
            }
        }
        None => {
            check_own(context, &Value::Null)?;
            let account = get(context, "serviceaccounts", Some(namespace), name).await?;
            account["metadata"]["uid"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut private.serviceaccount.uid);
        }
    }

    let now = Timestamp::now().as_second();
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        aud: audiences,
        iat: now,
        nbf: now,
        exp: now + seconds,
        kubernetes: private,
    };
    let expires = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
    request["spec"]["audiences"] = json!(claims.aud);
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] =
        json!({"token": context.app.accounts.sign(&claims), "expirationTimestamp": format!("{expires:.0}")});
    if !request["metadata"].is_object() {
        request["metadata"] = json!({});
    }
    Ok(body::json(StatusCode::CREATED, &request))
}

/// A node's agent gets tokens only for itself and for the pods that run on it.
fn check_own(context: &Context, node: &Value) -> Result<(), Status> {
    if context.decision != Decision::OwnPodsOnly || node.as_str() == context.identity.node() {
        return Ok(());
    }
    let why = "a node gets tokens only for itself and for the pods that run on it";
    Err(Status::forbidden(context.resource, context.name()?, why))
}

async fn get(context: &Context, plural: &str, namespace: Option<&str>, name: &str) -> Result<Value, Status> {
    let resource = registry::find("", "v1", plural).ok_or_else(Status::no_such_path)?;
    let stored = context.app.storage.get(resource, namespace, name).await?;
    Ok(stored.value())
}
