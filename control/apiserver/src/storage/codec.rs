//! Keys and bytes of objects in the store.
//!
//! An object is stored as the JSON that clients get, with the resource version in it: the store writes the digits itself, at
//! a place that [`encode`] names and [`restamp`] finds again. So lists and watches send stored bytes as they are.

use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};
use weft_api::registry::Resource;
use weft_store::Revision;

/// Root of all keys, as in kube-apiserver's etcd.
pub(crate) const ROOT: &str = "/registry/";

/// In encoded objects this stands right after `apiVersion` and `kind`, whose values are names without quotes, so its first
/// occurrence is the one.
const STAMP: &[u8] = br#""metadata":{"resourceVersion":""#;

/// An object, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) bytes: Bytes,
    /// Where the revision belongs.
    pub(crate) stamp: usize,
}

/// The prefix of the keys of a resource, in one namespace or in all.
pub(crate) fn prefix(resource: &Resource, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{ROOT}{}/{namespace}/", resource.storage),
        None => format!("{ROOT}{}/", resource.storage),
    }
}

pub(crate) fn key(resource: &Resource, namespace: Option<&str>, name: &str) -> String {
    let mut key = prefix(resource, namespace.filter(|_| resource.namespaced));
    key.push_str(name);
    key
}

/// Writes an object with room for its revision; a resource version that it has is left out.
pub(crate) fn encode(object: &Map<String, Value>) -> Encoded {
    let mut out = Vec::with_capacity(512);
    out.push(b'{');
    for field in ["apiVersion", "kind"] {
        push_field(&mut out, field, object.get(field).unwrap_or(&Value::Null));
        out.push(b',');
    }
    out.extend_from_slice(STAMP);
    let stamp = out.len();
    out.push(b'"');
    for (field, value) in object.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        if field != "resourceVersion" {
            out.push(b',');
            push_field(&mut out, field, value);
        }
    }
    out.push(b'}');
    for (field, value) in object {
        if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
            out.push(b',');
            push_field(&mut out, field, value);
        }
    }
    out.push(b'}');
    Encoded { bytes: out.into(), stamp }
}

/// A stored object with another revision in it.
pub(crate) fn restamp(stored: &Bytes, revision: Revision) -> Bytes {
    let Some(at) = stored.windows(STAMP.len()).position(|window| window == STAMP) else {
        return stored.clone();
    };
    let start = at + STAMP.len();
    let digits = stored[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let revision = revision.to_string();
    let mut out = BytesMut::with_capacity(stored.len() + revision.len());
    out.extend_from_slice(&stored[..start]);
    out.extend_from_slice(revision.as_bytes());
    out.extend_from_slice(&stored[start + digits..]);
    out.freeze()
}

/// A stored object as a value. What was stored was encoded here, so that it parses is this module's own doing; bytes that
/// do not are shown as nothing instead of ending the process.
pub(crate) fn decode(stored: &[u8]) -> Value {
    serde_json::from_slice(stored).unwrap_or_else(|error| {
        tracing::error!(%error, "a stored object is not JSON");
        Value::Null
    })
}

fn push_field(out: &mut Vec<u8>, field: &str, value: &Value) {
    // Writing JSON to memory fails only for keys that are no text, and these are.
    let _ = serde_json::to_writer(&mut *out, field);
    out.push(b':');
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_stamp_is_where_the_revision_belongs() {
        let object = json!({
            "kind": "ConfigMap", "apiVersion": "v1", "data": {"metadata": "{\"resourceVersion\":\"7\"}"},
            "metadata": {"name": "a", "resourceVersion": "3"},
        });
        let encoded = encode(object.as_object().unwrap());
        let mut stamped = encoded.bytes.to_vec();
        stamped.splice(encoded.stamp..encoded.stamp, *b"41");
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = "41".into();
        assert_eq!(decode(&stamped), expected);
        expected["metadata"]["resourceVersion"] = "12345".into();
        assert_eq!(decode(&restamp(&stamped.into(), 12345)), expected);
    }
}
