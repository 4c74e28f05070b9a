//! The sub-resources of pods that are only created: `binding` and `eviction`.

use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use weft_api::{status::Status, validate::FieldError};

use super::{
    decode::{self, Expected},
    delete::{self, DeleteOptions},
    write,
};
use crate::{
    admission::Part,
    context::Context,
    wire::body::{self, Body},
};

/// Gives a pod its node.
pub(crate) async fn bind(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let name = context.name()?;
    let params = context.params.write()?;
    let mut decoded = decode::read(&context.headers, body).await?;
    decoded.expect(&Expected { api_version: "v1".to_owned(), kind: "Binding" })?;
    let binding = decoded.value;
    check_name(&binding, name)?;
    let target = &binding["target"];
    let node = target["name"].as_str().unwrap_or_default();
    if !matches!(target["kind"].as_str(), None | Some("" | "Node")) || node.is_empty() {
        let error = FieldError::invalid("target", target.clone(), "must name a node");
        return Err(Status::invalid(context.resource, name, vec![error]));
    }
    let outcome = write::change(context, Part::Binding, params.dry_run, |pod| {
        let mut pod = pod.clone();
        let conflict = |why: &str| Err(Status::conflict(context.resource, name, why));
        if pod["metadata"].get("deletionTimestamp").is_some() {
            return conflict(&format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if let Some(other) = pod["spec"]["nodeName"].as_str().filter(|other| !other.is_empty()) {
            return conflict(&format!("pod {name} is already assigned to node {other:?}"));
        }
        if let Some(uid) = binding["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) {
            pod["metadata"]["uid"] = uid.into();
        }
        pod["spec"]["nodeName"] = node.into();
        for (key, value) in binding["metadata"]["annotations"].as_object().into_iter().flatten() {
            pod["metadata"]["annotations"][key] = value.clone();
        }
        mark_scheduled(&mut pod);
        Ok(pod)
    });
    outcome.await?;
    Ok(success(StatusCode::CREATED))
}

/// Deletes a pod on behalf of someone who drains its node. There are no disruption budgets yet that could refuse it.
pub(crate) async fn evict(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let mut decoded = decode::read(&context.headers, body).await?;
    decoded.expect(&Expected { api_version: "policy/v1".to_owned(), kind: "Eviction" })?;
    let name = context.name()?;
    check_name(&decoded.value, name)?;
    let options = match decoded.value["deleteOptions"].take() {
        Value::Null => json!({}),
        options => options,
    };
    let options = DeleteOptions::from_value(options, &context.params)?;
    delete::delete_one(context, name, &options).await?;
    Ok(success(StatusCode::CREATED))
}

fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    match object["metadata"]["name"].as_str() {
        Some(said) if !said.is_empty() && said != name => Err(Status::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

fn mark_scheduled(pod: &mut Value) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled",
            "status": "True",
            "lastTransitionTime": format!("{:.0}", Timestamp::now()),
        }));
    }
}

fn success(code: StatusCode) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
    });
    body::json(code, &status)
}
