//! The sub-resource `scale`: how many replicas, and nothing else.

use http::{Response, StatusCode};
use serde_json::{Value, json};
use weft_api::{selector::LabelSelector, status::Status, validate::FieldError};

use super::{
    decode::{self, Expected},
    patch::Patch,
    write::{self, Outcome},
};
use crate::{
    admission::Part,
    context::Context,
    wire::body::{self, Body},
};

const KIND: &str = "Scale";
const API_VERSION: &str = "autoscaling/v1";

pub(crate) async fn get(context: &Context) -> Result<Response<Body>, Status> {
    let stored = context.app.storage.get(context.resource, context.namespace(), context.name()?).await?;
    Ok(body::json(StatusCode::OK, &scale_of(&stored.value())))
}

pub(crate) async fn update(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let mut decoded = decode::read(&context.headers, body).await?;
    decoded.expect(&Expected { api_version: API_VERSION.to_owned(), kind: KIND })?;
    change(context, |_| Ok(decoded.value.clone())).await
}

pub(crate) async fn patch(context: &Context, body: Body) -> Result<Response<Body>, Status> {
    let patch = Patch::read(context, body).await?;
    change(context, |scale| patch.apply_plain(context.resource, scale)).await
}

async fn change(
    context: &Context,
    mut propose: impl FnMut(&Value) -> Result<Value, Status>,
) -> Result<Response<Body>, Status> {
    let params = context.params.write()?;
    let name = context.name()?;
    let outcome = write::change(context, Part::Main, params.dry_run, |current| {
        let scale = propose(&scale_of(current))?;
        if scale["metadata"]["name"].as_str().is_some_and(|said| said != name) {
            return Err(Status::bad_request("the name of the object does not match the name on the URL"));
        }
        let replicas = match &scale["spec"]["replicas"] {
            Value::Null => 0,
            value => match value.as_i64() {
                Some(replicas) if (0..=i64::from(i32::MAX)).contains(&replicas) => replicas,
                _ => {
                    let why = "must be an integer greater than or equal to 0";
                    let error = FieldError::invalid("spec.replicas", value.clone(), why);
                    return Err(Status::invalid(context.resource, name, vec![error]));
                }
            },
        };
        let mut object = current.clone();
        object["spec"]["replicas"] = json!(replicas);
        // What the client says of which object and which version it means counts here as well.
        for field in ["uid", "resourceVersion"] {
            object["metadata"][field] = scale["metadata"][field].clone();
        }
        Ok(object)
    })
    .await?;
    let object = match outcome {
        Outcome::Stored(stored) => stored.value(),
        Outcome::Dry(object) => object,
    };
    Ok(body::json(StatusCode::OK, &scale_of(&object)))
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let selector = LabelSelector::from_object(&object["spec"]["selector"]);
    let replicas = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    json!({
        "kind": KIND,
        "apiVersion": API_VERSION,
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": replicas("spec")},
        "status": {
            "replicas": replicas("status"),
            "selector": selector.map(|selector| selector.to_string()).unwrap_or_default(),
        },
    })
}
