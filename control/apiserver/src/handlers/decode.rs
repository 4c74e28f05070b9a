//! From the bytes of a body to an object of the right kind.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Map, Value};
use weft_api::{json, protobuf, registry::Resource, schema, status::Status};

use crate::wire::{
    body,
    media::{self, Format},
    params::FieldValidation,
};

/// The group, version and kind that a body must have.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) api_version: String,
    pub(crate) kind: &'static str,
}

/// A body, decoded.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) value: Value,
    /// Fields that occurred more than once.
    duplicates: Vec<String>,
}

/// Reads a body in any of the forms that clients send; an empty one is an empty object.
pub(crate) async fn read(headers: &HeaderMap, body: body::Body) -> Result<Decoded, Status> {
    let format = media::body_format(headers);
    let bytes = body::read(body).await?;
    if bytes.is_empty() {
        return Ok(Decoded { value: Value::Object(Map::new()), duplicates: Vec::new() });
    }
    parse(format?, &bytes)
}

fn parse(format: Format, bytes: &Bytes) -> Result<Decoded, Status> {
    let malformed = |error: &dyn std::fmt::Display| {
        Status::bad_request(format!("the object provided is unrecognized: {error}"))
    };
    let (value, duplicates) = match format {
        Format::Protobuf => (protobuf::decode(bytes).map_err(|error| malformed(&error))?, Vec::new()),
        Format::Json => {
            let parsed = json::parse(bytes).map_err(|error| malformed(&error))?;
            (parsed.value, parsed.duplicates)
        }
        Format::Yaml => {
            let parsed = json::parse_yaml(bytes).map_err(|error| malformed(&error))?;
            (parsed.value, parsed.duplicates)
        }
    };
    if !value.is_object() {
        return Err(malformed(&"it is not an object"));
    }
    Ok(Decoded { value, duplicates })
}

// === impl Expected ===

impl From<&Resource> for Expected {
    fn from(resource: &Resource) -> Self {
        Self { api_version: resource.api_version(), kind: resource.kind }
    }
}

// === impl Decoded ===

impl Decoded {
    /// Fills in the kind where the body names none, and refuses any other.
    pub(crate) fn expect(&mut self, expected: &Expected) -> Result<(), Status> {
        for (field, wanted) in [("apiVersion", expected.api_version.as_str()), ("kind", expected.kind)] {
            match self.value.get(field) {
                None | Some(Value::Null) => self.value[field] = wanted.into(),
                Some(Value::String(text)) if text.is_empty() => self.value[field] = wanted.into(),
                Some(Value::String(text)) if text == wanted => {}
                Some(other) => {
                    let other = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                    let message = format!(
                        "the {field} in the data ({other}) does not match the expected {field} ({wanted})"
                    );
                    return Err(Status::bad_request(message));
                }
            }
        }
        Ok(())
    }

    /// Compares the object with the schema of its kind: wrong types are refused, unknown and repeated fields are refused,
    /// told or passed over as the client wishes, and dropped. Returns what to tell.
    pub(crate) fn check(
        &mut self,
        resource: &Resource,
        validation: FieldValidation,
    ) -> Result<Vec<String>, Status> {
        let duplicates = std::mem::take(&mut self.duplicates);
        check(resource, &mut self.value, &duplicates, validation)
    }
}

/// See [`Decoded::check`].
pub(crate) fn check(
    resource: &Resource,
    object: &mut Value,
    duplicates: &[String],
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    drop_nulls(object);
    let report = schema::check(resource, object);
    let what = format!(
        "{} in version {:?} cannot be handled as a {}",
        resource.kind, resource.version, resource.kind
    );
    if !report.mistyped.is_empty() {
        let errors: Vec<_> = report.mistyped.iter().map(ToString::to_string).collect();
        return Err(Status::bad_request(format!("{what}: {}", errors.join(", "))));
    }
    let unknown = report.unknown.iter().map(|path| format!("unknown field {path:?}"));
    let problems: Vec<_> =
        duplicates.iter().map(|path| format!("duplicate field {path:?}")).chain(unknown).collect();
    if !problems.is_empty() && validation == FieldValidation::Strict {
        return Err(Status::bad_request(format!("{what}: strict decoding error: {}", problems.join(", "))));
    }
    if !report.unknown.is_empty() {
        schema::prune(resource, object);
    }
    Ok(if validation == FieldValidation::Warn { problems } else { Vec::new() })
}

/// A field that is null is a field that is not there, as for Kubernetes' typed decoders.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Result<Decoded, Status> {
        parse(Format::Json, &Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn the_kind_is_filled_in_but_never_changed() {
        let expected = Expected { api_version: "v1".into(), kind: "Pod" };
        let mut pod = decoded(r#"{"metadata":{}}"#).unwrap();
        pod.expect(&expected).unwrap();
        assert_eq!((pod.value["kind"].as_str(), pod.value["apiVersion"].as_str()), (Some("Pod"), Some("v1")));
        let status = decoded(r#"{"kind":"Service"}"#).unwrap().expect(&expected).unwrap_err();
        assert_eq!(status.code, 400);
        assert!(status.message.contains("(Service)"), "{}", status.message);
        assert_eq!(decoded(r#"{"kind":7}"#).unwrap().expect(&expected).unwrap_err().code, 400);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["[]", "1", "{", "\"x\"", "null"] {
            assert_eq!(decoded(text).unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn nulls_are_dropped_wherever_they_are() {
        let mut value = serde_json::json!({"a": null, "b": [{"c": null, "d": 1}]});
        drop_nulls(&mut value);
        assert_eq!(value, serde_json::json!({"b": [{"d": 1}]}));
    }
}
