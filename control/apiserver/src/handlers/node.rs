//! What the agents of nodes answer: container logs, and their own paths.

use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use weft_api::{registry, status::Status};

use crate::{
    context::Context,
    node_client::NodeAddress,
    wire::body::{self, Body},
};

/// Parameters of logs that are handed on, and how they are checked.
const LOG_NUMBERS: &[&str] = &["tailLines", "sinceSeconds", "limitBytes"];
const LOG_FLAGS: &[&str] = &["follow", "previous", "timestamps"];
/// Headers that are handed on in either direction. Everything else stays with the connection that it came on.
const HEADERS: &[header::HeaderName] = &[header::ACCEPT, header::CONTENT_TYPE];
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

pub(crate) async fn log(context: &Context) -> Result<Response<Body>, Status> {
    let name = context.name()?;
    let namespace = context.namespace().unwrap_or_default();
    let pod = context.app.storage.get(context.resource, context.namespace(), name).await?.value();
    let container = container(&pod, name, context.params.get("container"))?;
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let node =
        node.ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))?;
    let mut query = Vec::new();
    for parameter in LOG_NUMBERS {
        if let Some(number) = context.params.number::<u64>(parameter)? {
            query.push(format!("{parameter}={number}"));
        }
    }
    for parameter in LOG_FLAGS {
        if context.params.flag(parameter) {
            query.push(format!("{parameter}=true"));
        }
    }
    if let Some(time) = context.params.get("sinceTime") {
        let time: jiff::Timestamp =
            time.parse().map_err(|_| Status::bad_request(format!("invalid sinceTime {time:?}")))?;
        query.push(format!("sinceTime={}", utf8_percent_encode(&time.to_string(), NON_ALPHANUMERIC)));
    }
    let path = format!("/containerLogs/{namespace}/{name}/{container}?{}", query.join("&"));
    let mut response = forward(context, node, Method::GET, &path, body::full("")).await?;
    if !response.status().is_success() {
        let code = response.status().as_u16();
        let text = body::read(response.into_body()).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let reason = if code == 404 { "NotFound" } else { "BadRequest" };
        let code = if (400..500).contains(&code) { code } else { 500 };
        let reason = if code == 500 { "InternalError" } else { reason };
        return Err(Status::new(code, reason, text.trim().chars().take(1000).collect::<String>()));
    }
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    Ok(response)
}

pub(crate) async fn proxy(context: &Context, verb: &str, body: Body) -> Result<Response<Body>, Status> {
    let method = match verb {
        "get" => Method::GET,
        "create" => Method::POST,
        "update" => Method::PUT,
        "patch" => Method::PATCH,
        _ => Method::DELETE,
    };
    let query = context.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/{}{query}", context.path.rest.as_deref().unwrap_or_default());
    forward(context, context.name()?, method, &path, body).await
}

/// Asks the agent of a node. Redirects are not followed: they would let a node send this server, with its certificate, anywhere.
async fn forward(
    context: &Context,
    node: &str,
    method: Method,
    path: &str,
    body: Body,
) -> Result<Response<Body>, Status> {
    let nodes = registry::find("", "v1", "nodes").ok_or_else(Status::no_such_path)?;
    let object = context.app.storage.get(nodes, None, node).await?.value();
    let address = NodeAddress::of(&object)
        .ok_or_else(|| Status::unavailable(format!("node {node} has not told the address of its agent")))?;
    let uri: Uri = path.parse().map_err(|_| Status::bad_request("the path is not valid"))?;
    let mut request = http::Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    copy_headers(&context.headers, request.headers_mut());
    let answer = context.app.nodes.send(address, request).await.map_err(|error| {
        let error = weft_kit::error::chain(&error);
        tracing::warn!(node, error, "cannot reach the agent of a node");
        Status::unavailable(format!("error trying to reach node {node}: {error}"))
    })?;
    if answer.status().is_redirection() {
        return Err(Status::unavailable(format!(
            "node {node} answered with a redirect, which is not followed"
        )));
    }
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(body);
    *response.status_mut() = parts.status;
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Status::unavailable(format!(
            "node {node} answered with an upgrade that nobody asked for"
        )));
    }
    copy_headers(&parts.headers, response.headers_mut());
    Ok(response)
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for name in HEADERS {
        if let Some(value) = from.get(name) {
            to.insert(name, value.clone());
        }
    }
}

/// The container that is meant; without a name, the only one or the one that an annotation names.
fn container(pod: &Value, name: &str, wanted: Option<&str>) -> Result<String, Status> {
    let names = |field: &str| {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut containers = names("containers");
    let Some(wanted) = wanted else {
        if let Some(default) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str()
            && containers.iter().any(|container| container == default)
        {
            return Ok(default.to_owned());
        }
        return match containers.as_slice() {
            [only] => Ok(only.clone()),
            many => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            ))),
        };
    };
    containers.extend(names("initContainers"));
    if containers.iter().any(|container| container == wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_of_a_log_must_exist_and_be_clear() {
        let one = json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&one, "p", None).unwrap(), "a");
        assert_eq!(container(&one, "p", Some("i")).unwrap(), "i");
        assert_eq!(container(&one, "p", Some("../x")).unwrap_err().code, 400);
        let mut two = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert!(container(&two, "p", None).unwrap_err().message.contains("choose one of: [a b]"));
        two["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(container(&two, "p", None).unwrap(), "b");
    }
}
