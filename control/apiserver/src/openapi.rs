//! The schemas of the kinds, as clients download them.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::OnceLock,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use weft_api::{openapi_v2_pb, registry, schema, status::Status};

use crate::wire::{
    body::{self, Body},
    media,
};

/// What clients ask for. The first has a character that media types may not have, so the answer always names the second.
const V2_PROTOBUF_ASKED: &[&str] =
    &["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2_PROTOBUF];
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Documents are made when the first client asks for them, and then kept: most clusters are never asked for all.
#[derive(Debug, Default)]
pub(crate) struct OpenApi {
    v3: OnceLock<BTreeMap<String, Document>>,
    v2: OnceLock<Bytes>,
    v2_protobuf: OnceLock<Bytes>,
}

#[derive(Debug)]
struct Document {
    bytes: Bytes,
    /// Of the content: a client that has a document of this hash need not ask again.
    hash: String,
}

impl OpenApi {
    /// `/openapi/v3`.
    pub(crate) fn index(&self) -> Response<Body> {
        let paths: BTreeMap<&String, Value> = self
            .documents()
            .iter()
            .map(|(path, document)| {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                (path, json!({"serverRelativeURL": url}))
            })
            .collect();
        body::json(StatusCode::OK, &json!({"paths": paths}))
    }

    /// `/openapi/v3/PATH`.
    pub(crate) fn document(&self, path: &str) -> Result<Response<Body>, Status> {
        let document = self.documents().get(path).ok_or_else(Status::no_such_path)?;
        let mut response = body::json_bytes(StatusCode::OK, document.bytes.clone());
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", document.hash)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        Ok(response)
    }

    /// `/openapi/v2`, in JSON or in the protobuf form that older kubectls ask for.
    pub(crate) fn v2(&self, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        if V2_PROTOBUF_ASKED.iter().any(|asked| media::accepts_exactly(headers, asked)) {
            let bytes = self.v2_protobuf.get_or_init(|| openapi_v2_pb::encode().into());
            return Ok(body::with_type(StatusCode::OK, V2_PROTOBUF, bytes.clone()));
        }
        if !media::accepts_json(headers) {
            return Err(Status::not_acceptable(&format!("application/json, {V2_PROTOBUF}")));
        }
        let bytes = self.v2.get_or_init(|| schema::openapi_v2().to_string().into());
        Ok(body::json_bytes(StatusCode::OK, bytes.clone()))
    }

    fn documents(&self) -> &BTreeMap<String, Document> {
        self.v3.get_or_init(|| {
            let mut documents = BTreeMap::new();
            for resource in registry::all().iter().chain(registry::reviews()) {
                let path = match resource.group {
                    "" => format!("api/{}", resource.version),
                    group => format!("apis/{group}/{}", resource.version),
                };
                if documents.contains_key(&path) {
                    continue;
                }
                if let Some(document) = schema::openapi_v3(resource.group, resource.version) {
                    let bytes = Bytes::from(document.to_string());
                    let mut hasher = DefaultHasher::new();
                    bytes.hash(&mut hasher);
                    documents.insert(path, Document { bytes, hash: format!("{:016X}", hasher.finish()) });
                }
            }
            documents
        })
    }
}
