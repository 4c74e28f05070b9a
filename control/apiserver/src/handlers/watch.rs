//! Streams of changes.
//!
//! # Guarantees
//! * Events come in the order of their revisions, without a gap and without a repetition.
//! * A bookmark comes after every event up to its revision.
//! * An object that leaves the selection is reported as deleted, in the state in which it was last selected.
//!
//! # Caveats
//! * A client that is slower than the objects change ends with an event of code 410 and has to list again. Nothing is
//!   buffered for it beyond one piece.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use rand::Rng as _;
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use weft_api::status::Status;
use weft_store::Revision;

use super::render::Renderer;
use crate::{
    context::Context,
    metrics::WatchGuard,
    storage::{Cache, Change, Collection, Filter, codec},
    wire::{
        body::{Body, BoxError},
        media::Form,
        params::{ListParams, RevisionMatch},
    },
};

/// Changes looked at before what they gave is sent.
const CHUNK: usize = 64;
/// How often a quiet watch is told how far it is; as kube-apiserver.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// When a client names no timeout, a random time up to twice this; as kube-apiserver.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A running watch. `position` is canonical: everything up to it was sent or did not concern the client.
struct Session {
    cache: Arc<Cache>,
    collection: Arc<Collection>,
    newest: watch::Receiver<Revision>,
    renderer: Renderer,
    filter: Filter,
    prefix: String,
    position: Revision,
    /// What was there at the start, not sent yet.
    initial: VecDeque<Bytes>,
    /// Columns of a table go with the first event only.
    columns: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// The last event says why the watch ends.
    ended: bool,
    shutdown: CancellationToken,
    _guard: WatchGuard,
}

/// Why a quiet watch goes on.
enum Wake {
    Changed,
    Bookmark,
    Deadline,
    Shutdown,
}

pub(crate) async fn watch(context: &Context, params: &ListParams) -> Result<Response<Body>, Status> {
    let renderer = Renderer::new(context)?;
    let cache = context.app.storage.cache.clone();
    let collection = cache.collection(context.resource).clone();
    if matches!(params.revision, RevisionMatch::Exact(_)) {
        return Err(Status::unprocessable("resourceVersionMatch: Forbidden: Exact is forbidden for watch"));
    }
    // Without a revision, and with sendInitialEvents, a watch starts with the state instead of a position.
    let start = match params.revision {
        RevisionMatch::NotOlderThan(revision) if !params.initial_events => Some(revision),
        RevisionMatch::NotOlderThan(revision) => {
            cache.wait_for(revision).await?;
            None
        }
        RevisionMatch::Any => None,
        _ => {
            cache.catch_up().await?;
            None
        }
    };
    let timeout = params.timeout.unwrap_or_else(|| MIN_TIMEOUT.mul_f64(rand::rng().random_range(1.0..2.0)));
    let mut session = Session {
        newest: collection.newest(),
        renderer,
        filter: Filter { labels: params.labels.clone(), fields: params.fields.clone() },
        prefix: codec::prefix(context.resource, context.namespace()),
        position: start.unwrap_or_default(),
        initial: VecDeque::new(),
        columns: true,
        bookmarks: params.bookmarks,
        next_bookmark: Instant::now() + BOOKMARK_INTERVAL,
        deadline: Instant::now() + timeout,
        ended: false,
        shutdown: context.app.shutdown.clone(),
        _guard: context.app.metrics.watch(context.resource),
        cache,
        collection,
    };
    match start {
        Some(position) => drop(session.collection.changes_after(position, 0).map_err(|dropped| {
            Status::expired(format!("too old resource version: {position} ({})", dropped.oldest))
        })?),
        None => session.start_with_state(context, params.initial_events),
    }
    let pieces = stream::unfold(session, |mut session| async move {
        let piece = session.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(piece)), session))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

// === impl Session ===

impl Session {
    fn start_with_state(&mut self, context: &Context, mark_end: bool) {
        let (objects, revision) = self.cache.snapshot(context.resource, context.namespace());
        self.position = revision;
        let mut buffer = BytesMut::new();
        for object in objects {
            if self.filter.selects(self.renderer.resource, &object) {
                self.push(&mut buffer, "ADDED", &object.bytes);
                self.initial.push_back(buffer.split().freeze());
            }
        }
        if mark_end {
            self.push_bookmark(&mut buffer, true);
            self.initial.push_back(buffer.freeze());
        }
    }

    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.initial.pop_front() {
            return Some(piece);
        }
        while !self.ended {
            let mut buffer = BytesMut::new();
            self.advance(&mut buffer);
            if !buffer.is_empty() {
                return Some(buffer.freeze());
            }
            match self.wait().await {
                Wake::Changed => {}
                Wake::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                    self.bookmark(&mut buffer);
                }
                Wake::Deadline => {
                    self.ended = true;
                    if self.bookmarks {
                        self.bookmark(&mut buffer);
                    }
                }
                Wake::Shutdown => self.ended = true,
            }
            if !buffer.is_empty() {
                return Some(buffer.freeze());
            }
        }
        None
    }

    async fn wait(&mut self) -> Wake {
        let position = self.position;
        tokio::select! {
            changed = self.newest.wait_for(|newest| *newest > position) => {
                if changed.is_ok() { Wake::Changed } else { Wake::Shutdown }
            }
            () = sleep_until(self.next_bookmark), if self.bookmarks => Wake::Bookmark,
            () = sleep_until(self.deadline) => Wake::Deadline,
            () = self.shutdown.cancelled() => Wake::Shutdown,
        }
    }

    /// Takes the next changes, up to [`CHUNK`].
    fn advance(&mut self, buffer: &mut BytesMut) {
        loop {
            // Read first: when there is no change after the position, none up to this revision is missing.
            let complete = self.cache.revision();
            match self.collection.changes_after(self.position, CHUNK) {
                Err(dropped) => {
                    let why = format!("too old resource version: {} ({})", self.position, dropped.oldest);
                    let status = Status::expired(why).to_json();
                    buffer.put_slice(json!({"type": "ERROR", "object": status}).to_string().as_bytes());
                    buffer.put_u8(b'\n');
                    self.ended = true;
                    return;
                }
                Ok(changes) if changes.is_empty() => {
                    self.position = self.position.max(complete);
                    return;
                }
                Ok(changes) => {
                    for change in changes {
                        self.position = change.revision;
                        self.push_change(buffer, &change);
                    }
                    if !buffer.is_empty() {
                        return;
                    }
                }
            }
        }
    }

    fn push_change(&mut self, buffer: &mut BytesMut, change: &Change) {
        if !change.key.starts_with(&self.prefix) {
            return;
        }
        let resource = self.renderer.resource;
        let current = change.current.as_ref().filter(|object| self.filter.selects(resource, object));
        let previous = change.previous.as_ref().filter(|object| self.filter.selects(resource, object));
        match (previous, current) {
            (None, Some(object)) => self.push(buffer, "ADDED", &object.bytes),
            (Some(_), Some(object)) => self.push(buffer, "MODIFIED", &object.bytes),
            (Some(_), None) => {
                if let Some(bytes) = change.farewell() {
                    self.push(buffer, "DELETED", bytes);
                }
            }
            (None, None) => {}
        }
    }

    fn push(&mut self, buffer: &mut BytesMut, kind: &str, stored: &Bytes) {
        let object = self.renderer.one(stored, self.columns);
        self.columns = false;
        buffer.reserve(object.len() + 40);
        buffer.put_slice(b"{\"type\":\"");
        buffer.put_slice(kind.as_bytes());
        buffer.put_slice(b"\",\"object\":");
        buffer.put_slice(&object);
        buffer.put_slice(b"}\n");
    }

    fn bookmark(&mut self, buffer: &mut BytesMut) {
        self.advance(buffer);
        if !self.ended || buffer.is_empty() {
            self.push_bookmark(buffer, false);
        }
    }

    fn push_bookmark(&mut self, buffer: &mut BytesMut, end_of_initial: bool) {
        let mut metadata = json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let resource = self.renderer.resource;
        let object = match self.renderer.form {
            Form::Object => {
                json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
            }
            Form::Metadata(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            }),
            Form::Table(version) => {
                let object = json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata,
                });
                json!({
                    "kind": "Table",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": {"resourceVersion": self.position.to_string()},
                    "columnDefinitions": [],
                    "rows": [{"cells": [], "object": object}],
                })
            }
        };
        buffer.put_slice(json!({"type": "BOOKMARK", "object": object}).to_string().as_bytes());
        buffer.put_u8(b'\n');
    }
}
