//! Reading objects and collections.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde::{Deserialize, Serialize};
use serde_json::json;
use weft_api::status::Status;
use weft_store::{ListRequest, ReadError, Revision};

use super::render::{ListMeta, Renderer};
use crate::{
    context::Context,
    storage::{Filter, Object, codec, too_large, unavailable},
    wire::{
        body::{self, Body, BoxError},
        media::Form,
        params::{ListParams, RevisionMatch},
    },
};

/// Pieces in which a long list is sent: it is never in memory a second time as a whole.
const PIECE: usize = 64 << 10;

/// Where the next page starts, as clients carry it around.
#[derive(Debug, Serialize, Deserialize)]
struct Continue {
    /// Version of the token's own form.
    v: String,
    /// The revision of the first page; `-1` for whatever is newest, after the first one was lost.
    rv: i64,
    /// The last key that was shown, without the prefix of the collection.
    start: String,
}

/// A page of a collection.
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    meta: ListMeta,
}

/// Why there is no page.
pub(crate) struct PageError {
    pub(crate) status: Status,
    /// A token that goes on from the same place, where the given one is too old.
    fresh: Option<String>,
}

impl From<Status> for PageError {
    fn from(status: Status) -> Self {
        Self { status, fresh: None }
    }
}

pub(crate) async fn get(context: &Context) -> Result<Response<Body>, Status> {
    let renderer = Renderer::new(context)?;
    if let RevisionMatch::NotOlderThan(revision) = context.params.revision()? {
        context.app.storage.cache.wait_for(revision).await?;
    }
    let stored = context.app.storage.get(context.resource, context.namespace(), context.name()?).await?;
    Ok(renderer.respond(StatusCode::OK, &stored))
}

pub(crate) async fn list(context: &Context, params: &ListParams) -> Result<Response<Body>, Status> {
    let renderer = Renderer::new(context)?;
    match page(context, params).await {
        Ok(page) => Ok(respond(&renderer, page)),
        Err(PageError { status, fresh: Some(token) }) => {
            let mut value = status.to_json();
            value["metadata"]["continue"] = json!(token);
            Ok(body::json(StatusCode::GONE, &value))
        }
        Err(PageError { status, fresh: None }) => Err(status),
    }
}

/// The objects that are asked for, without more of them than the limit.
pub(crate) async fn page(context: &Context, params: &ListParams) -> Result<Page, PageError> {
    let filter = Filter { labels: params.labels.clone(), fields: params.fields.clone() };
    let prefix = codec::prefix(context.resource, context.namespace());
    let (objects, revision) = match (&params.continue_token, params.revision) {
        (Some(token), revision) => {
            if !matches!(revision, RevisionMatch::Newest | RevisionMatch::Any) {
                let why = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(why).into());
            }
            let token = Continue::parse(token)?;
            let at = Revision::try_from(token.rv).ok();
            let after = Some(format!("{prefix}{}", token.start));
            let listed = stored(context, &prefix, after, at).await;
            listed.map_err(|error| expired(&error, &token.start))?
        }
        (None, RevisionMatch::Exact(revision)) => {
            let listed = stored(context, &prefix, None, Some(revision)).await;
            listed.map_err(|error| match error {
                ReadError::Compacted { .. } => {
                    Status::expired(format!("The resourceVersion is too old: {error}"))
                }
                ReadError::Future { requested, newest } => too_large(requested, newest),
                ReadError::Closed => unavailable(&error),
            })?
        }
        (None, revision) => {
            let cache = &context.app.storage.cache;
            match revision {
                RevisionMatch::NotOlderThan(revision) => cache.wait_for(revision).await?,
                RevisionMatch::Any => {}
                _ => cache.catch_up().await?,
            }
            cache.snapshot(context.resource, context.namespace())
        }
    };
    Ok(cut(context, params, &filter, &prefix, objects, revision))
}

/// A list at a revision of its own, from the store.
async fn stored(
    context: &Context,
    prefix: &str,
    after: Option<String>,
    at: Option<Revision>,
) -> Result<(Vec<Arc<Object>>, Revision), ReadError> {
    let request = ListRequest { prefix: prefix.to_owned(), after, limit: None, at };
    let list = context.app.storage.store.list(request).await?;
    Ok((list.entries.iter().map(|entry| Arc::new(Object::new(entry))).collect(), list.revision))
}

/// Filters, and cuts at the limit.
fn cut(
    context: &Context,
    params: &ListParams,
    filter: &Filter,
    prefix: &str,
    mut objects: Vec<Arc<Object>>,
    revision: Revision,
) -> Page {
    if !filter.is_empty() {
        objects.retain(|object| filter.selects(context.resource, object));
    }
    let mut meta = ListMeta { resource_version: revision.to_string(), ..ListMeta::default() };
    if let Some(limit) = params.limit.filter(|limit| *limit < objects.len()) {
        // With a selector the number would say how much the selector hides; Kubernetes leaves it out as well.
        meta.remaining = filter.is_empty().then_some(objects.len() - limit);
        objects.truncate(limit);
        let last = objects.last().and_then(|object| object.key.strip_prefix(prefix));
        let rv = i64::try_from(revision).unwrap_or(-1);
        meta.continue_token = last.map(|start| Continue::new(rv, start).encode());
    }
    Page { objects, meta }
}

fn expired(error: &ReadError, start: &str) -> PageError {
    match error {
        ReadError::Compacted { .. } => {
            let status = Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter, or use the continue token in this response to retrieve the \
                 remainder of the results. Continuing with the provided token results in an inconsistent list - \
                 objects that were created, modified, or deleted between the time the first chunk was returned and \
                 now may show up in the list.",
            );
            PageError { status, fresh: Some(Continue::new(-1, start).encode()) }
        }
        ReadError::Future { .. } => {
            Status::bad_request("continue key is not valid: it is from the future").into()
        }
        ReadError::Closed => unavailable(error).into(),
    }
}

fn respond(renderer: &Renderer, page: Page) -> Response<Body> {
    let (kind, api_version) = match renderer.form {
        Form::Table(version) => {
            let values = page.objects.iter().map(|object| renderer.value(&object.bytes));
            return body::json(StatusCode::OK, &renderer.table(version, &page.meta, true, values));
        }
        Form::Metadata(version) => ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}")),
        Form::Object => (renderer.resource.list_kind(), renderer.resource.api_version()),
    };
    let mut head =
        json!({"kind": kind, "apiVersion": api_version, "metadata": page.meta.to_value()}).to_string();
    head.pop();
    head.push_str(",\"items\":[");
    let body = pieces(*renderer, head.into(), page.objects);
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The list as a body; one that fits into a piece has a known length.
fn pieces(renderer: Renderer, head: Bytes, objects: Vec<Arc<Object>>) -> Body {
    let mut items = objects.into_iter().enumerate();
    let mut done = false;
    let mut next = move |buffer: &mut BytesMut| {
        while !done && buffer.len() < PIECE {
            match items.next() {
                Some((index, object)) => {
                    if index > 0 {
                        buffer.extend_from_slice(b",");
                    }
                    buffer.extend_from_slice(&renderer.item(&object.bytes));
                }
                None => {
                    buffer.extend_from_slice(b"]}");
                    done = true;
                }
            }
        }
        done
    };
    let mut first = BytesMut::from(head);
    if next(&mut first) {
        return body::full(first.freeze());
    }
    let rest = std::iter::from_fn(move || {
        let mut buffer = BytesMut::with_capacity(PIECE);
        next(&mut buffer);
        (!buffer.is_empty()).then(|| buffer.freeze())
    });
    let all = std::iter::once(first.freeze()).chain(rest);
    StreamBody::new(stream::iter(all.map(|piece| Ok::<_, BoxError>(Frame::data(piece))))).boxed_unsync()
}

// === impl Continue ===

impl Continue {
    fn new(rv: i64, start: &str) -> Self {
        Self { v: "meta.k8s.io/v1".to_owned(), rv, start: start.to_owned() }
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }

    fn parse(token: &str) -> Result<Self, Status> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        let token: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let token =
            token.filter(|token| token.v == "meta.k8s.io/v1" && !token.start.is_empty() && token.rv != 0);
        token.ok_or_else(|| Status::bad_request("continue key is not valid"))
    }
}
