//! `/containerLogs/NAMESPACE/POD/CONTAINER`: the log of one container.

use std::borrow::Cow;

use futures::StreamExt as _;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;

use super::{Body, State, text};
use crate::{
    logs::LogOptions,
    runtime::{Container, PodUid, Role},
    sidecar,
};

pub(super) async fn answer(state: &State, path: &str, query: &str) -> Response<Body> {
    let parts: Vec<Cow<'_, str>> = path.split('/').map(decode).collect();
    let [namespace, pod_name, container] = parts.as_slice() else {
        return text(StatusCode::NOT_FOUND, "the path is /containerLogs/NAMESPACE/POD/CONTAINER");
    };
    let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    let options =
        LogOptions::from_query(pairs.iter().map(|(name, value)| (&**name, &**value)), Timestamp::now());
    let options = match options {
        Ok(options) => options,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let not_found = || text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod_name} is not on this node"));
    let Some(pod) = state.pods.find(namespace, pod_name) else { return not_found() };
    let Some(uid) = pod.metadata.uid.as_deref().and_then(PodUid::new) else { return not_found() };
    let spec = pod.spec.clone().unwrap_or_default();
    let known =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|c| c.name == **container);
    if !known && container != sidecar::CONTAINER {
        return text(StatusCode::NOT_FOUND, format!("container {container} is not valid for pod {pod_name}"));
    }
    let records = match state.runtime.containers(&uid).await {
        Ok(records) => records,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, weft_kit::error::chain(&error)),
    };
    let Some(instance) = instance(&records, container, known, options.previous) else {
        let text_ = match options.previous {
            true => format!("previous terminated container \"{container}\" in pod \"{pod_name}\" not found"),
            false => format!("container \"{container}\" in pod \"{pod_name}\" is waiting to start"),
        };
        return text(StatusCode::BAD_REQUEST, text_);
    };
    match state.runtime.logs(instance, options).await {
        Ok(stream) => {
            let frames = stream.map(|chunk| chunk.map(Frame::data));
            let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
            let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, weft_kit::error::chain(&error)),
    }
}

/// The instance that is meant. A container of the pod's goes before the sidecar, should they have one name.
fn instance<'a>(records: &'a [Container], name: &str, in_pod: bool, previous: bool) -> Option<&'a Container> {
    let mut instances: Vec<&Container> =
        records.iter().filter(|c| c.name == name && (c.role == Role::Sidecar) != in_pod).collect();
    instances.sort_by_key(|container| std::cmp::Reverse(container.attempt));
    instances.into_iter().nth(usize::from(previous))
}

/// Percent-decoding; `+` is a space in queries, and no name or time zone that we accept contains one in a path.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(rest.next()), digit(rest.next())) {
                    (Some(high), Some(low)) => bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?')),
                    // No name contains it, so what follows is not found.
                    _ => bytes.push(b'%'),
                }
            }
            byte => bytes.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ContainerState;

    fn record(name: &str, role: Role, attempt: u32) -> Container {
        Container {
            pod: PodUid::new("u").expect("valid"),
            name: name.into(),
            role,
            attempt,
            id: String::new(),
            image: String::new(),
            image_id: String::new(),
            state: ContainerState::Running { started_at: Timestamp::UNIX_EPOCH },
        }
    }

    #[test]
    fn the_latest_instance_is_meant_or_the_one_before() {
        let records = [record("c", Role::App, 1), record("c", Role::App, 2), record("d", Role::App, 9)];
        let attempt = |previous| instance(&records, "c", true, previous).map(|found| found.attempt);
        assert_eq!((attempt(false), attempt(true)), (Some(2), Some(1)));
        assert!(instance(&records, "d", true, true).is_none());
    }

    #[test]
    fn queries_are_decoded_and_broken_ones_do_no_harm() {
        assert_eq!(decode("2026-11-23T21%3A00%3A00Z"), "2026-11-23T21:00:00Z");
        assert_eq!(decode("a%zzb"), "a%b");
        assert_eq!(decode("%"), "%");
        assert_eq!(decode("plain"), "plain");
    }
}
