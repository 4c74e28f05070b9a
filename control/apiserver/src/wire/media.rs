//! Which form of an answer a client accepts, and which form its body has.

use http::{HeaderMap, header};
use weft_api::status::Status;

/// The form of an answer. Always JSON; what differs is what of the objects is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects.
    Object,
    /// A table for people, `meta.k8s.io/VERSION`.
    Table(&'static str),
    /// Only the metadata.
    Metadata(&'static str),
}

/// The form of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// The kinds of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
}

/// The aggregated forms of discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiscoveryForm {
    /// One list for each level.
    Legacy,
    /// Everything at once, `apidiscovery.k8s.io/VERSION`.
    Aggregated(&'static str),
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const OBJECT_TYPES: &str = "application/json, application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";

/// One element of an `Accept` header, lowercased but for its parameters' values.
struct Accepted<'a> {
    media: String,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Accepted<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    fn is_json(&self) -> bool {
        let refused = self.parameter("q").is_some_and(|q| q.parse() == Ok(0.0));
        !refused && matches!(self.media.as_str(), "application/json" | "application/*" | "*/*")
    }
}

/// The elements of all `Accept` headers, in the order of the client's preference, which for every client of this API is the
/// order in which they stand.
fn accepted(headers: &HeaderMap) -> Vec<Accepted<'_>> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let elements = texts.flat_map(|text| text.split(',')).filter(|element| !element.trim().is_empty());
    elements
        .map(|element| {
            let mut parts = element.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            Accepted { media, parameters: parts.filter_map(|part| part.split_once('=')).collect() }
        })
        .collect()
}

/// The form of objects that the client prefers of those that there are.
pub(crate) fn object_form(headers: &HeaderMap) -> Result<Form, Status> {
    let accepted = accepted(headers);
    if accepted.is_empty() {
        return Ok(Form::Object);
    }
    let version = |element: &Accepted<'_>| match (element.parameter("g"), element.parameter("v")) {
        (Some("meta.k8s.io"), Some("v1")) => Some("v1"),
        (Some("meta.k8s.io"), Some("v1beta1")) => Some("v1beta1"),
        _ => None,
    };
    let form = accepted.iter().filter(|element| element.is_json()).find_map(|element| {
        match element.parameter("as") {
            None => Some(Form::Object),
            Some("Table") => version(element).map(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => {
                version(element).map(Form::Metadata)
            }
            Some(_) => None,
        }
    });
    form.ok_or_else(|| Status::not_acceptable(OBJECT_TYPES))
}

/// The form of discovery that the client prefers.
pub(crate) fn discovery_form(headers: &HeaderMap) -> Result<DiscoveryForm, Status> {
    let accepted = accepted(headers);
    if accepted.is_empty() {
        return Ok(DiscoveryForm::Legacy);
    }
    let form = accepted.iter().filter(|element| element.is_json()).find_map(|element| {
        match (element.parameter("as"), element.parameter("g"), element.parameter("v")) {
            (None, ..) => Some(DiscoveryForm::Legacy),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                Some(DiscoveryForm::Aggregated("v2"))
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                Some(DiscoveryForm::Aggregated("v2beta1"))
            }
            _ => None,
        }
    });
    form.ok_or_else(|| Status::not_acceptable("application/json"))
}

/// Whether the client takes plain JSON.
pub(crate) fn accepts_json(headers: &HeaderMap) -> bool {
    let accepted = accepted(headers);
    accepted.is_empty() || accepted.iter().any(Accepted::is_json)
}

/// Whether the client names this media type.
pub(crate) fn accepts_exactly(headers: &HeaderMap, media: &str) -> bool {
    accepted(headers).iter().any(|element| element.media == media)
}

/// The form of the body of a write. Without a `Content-Type` it is JSON.
pub(crate) fn body_format(headers: &HeaderMap) -> Result<Format, Status> {
    match content_type(headers).as_str() {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        PROTOBUF => Ok(Format::Protobuf),
        _ => Err(Status::unsupported_media_type(&format!("application/json, application/yaml, {PROTOBUF}"))),
    }
}

pub(crate) fn patch_type(headers: &HeaderMap) -> Result<PatchType, Status> {
    const SUPPORTED: &str =
        "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";
    match content_type(headers).as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
            let mut status = Status::unsupported_media_type(SUPPORTED);
            status.message = format!(
                "server-side apply is not supported by this server; use client-side apply (kubectl apply without \
                 --server-side), or one of: {SUPPORTED}"
            );
            Err(status)
        }
        _ => Err(Status::unsupported_media_type(SUPPORTED)),
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    text.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn accept(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(text))])
    }

    #[test]
    fn the_first_form_that_there_is_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(object_form(&accept(table)).unwrap(), Form::Table("v1"));
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(object_form(&accept(protobuf)).unwrap(), Form::Object);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(object_form(&accept(metadata)).unwrap(), Form::Metadata("v1"));
        assert_eq!(object_form(&accept("*/*")).unwrap(), Form::Object);
        assert_eq!(object_form(&HeaderMap::new()).unwrap(), Form::Object);
    }

    #[test]
    fn a_form_that_there_is_not_is_refused() {
        for text in [
            "application/json;as=Table;v=v9;g=meta.k8s.io",
            "application/json;as=Chair;v=v1;g=meta.k8s.io",
            "application/vnd.kubernetes.protobuf",
            "text/html",
            "application/json;q=0",
        ] {
            assert_eq!(object_form(&accept(text)).unwrap_err().code, 406, "{text}");
        }
    }

    #[test]
    fn server_side_apply_is_refused_by_name() {
        let headers = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/apply-patch+yaml"),
        )]);
        let status = patch_type(&headers).unwrap_err();
        assert_eq!(status.code, 415);
        assert!(status.message.contains("server-side apply"), "{}", status.message);
    }
}
