//! Objects in the form that the client asked for.

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};
use weft_api::{convert, registry, registry::Resource, status::Status, table};

use crate::{
    context::Context,
    storage::{Stored, codec},
    wire::{
        body::{self, Body},
        media::{self, Form},
    },
};

/// What of an object a table row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

/// Shows objects of one resource in one form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renderer {
    pub(crate) resource: &'static Resource,
    pub(crate) form: Form,
    include: Include,
}

/// What goes with the items of a list.
#[derive(Debug, Default)]
pub(crate) struct ListMeta {
    pub(crate) resource_version: String,
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<usize>,
}

// === impl Renderer ===

impl Renderer {
    pub(crate) fn new(context: &Context) -> Result<Self, Status> {
        let include = match context.params.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::Nothing,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "invalid includeObject value: {other:?}, must be None, Metadata or Object"
                )));
            }
        };
        Ok(Self { resource: context.resource, form: media::object_form(&context.headers)?, include })
    }

    /// Whether stored bytes are what the client gets.
    pub(crate) fn is_verbatim(&self) -> bool {
        self.form == Form::Object && !self.converts()
    }

    /// An answer with one stored object.
    pub(crate) fn respond(&self, code: StatusCode, stored: &Stored) -> Response<Body> {
        body::json_bytes(code, self.one(&stored.bytes, true))
    }

    /// An answer with an object that is not stored.
    pub(crate) fn respond_value(&self, code: StatusCode, object: Value) -> Response<Body> {
        body::json(code, &self.shape(object, true))
    }

    /// One stored object by itself. The columns of a table can be left out where the client has them already.
    pub(crate) fn one(&self, stored: &Bytes, columns: bool) -> Bytes {
        if self.is_verbatim() {
            return stored.clone();
        }
        self.shape(codec::decode(stored), columns).to_string().into()
    }

    /// One stored object as an item of a list that is not a table.
    pub(crate) fn item(&self, stored: &Bytes) -> Bytes {
        self.one(stored, false)
    }

    /// A stored object as a value in the client's version.
    pub(crate) fn value(&self, stored: &Bytes) -> Value {
        let mut value = codec::decode(stored);
        convert::from_storage(self.resource, &mut value);
        value
    }

    fn shape(&self, mut object: Value, columns: bool) -> Value {
        convert::from_storage(self.resource, &mut object);
        match self.form {
            Form::Object => object,
            Form::Metadata(version) => partial(&mut object, version),
            Form::Table(version) => {
                let meta = ListMeta {
                    resource_version: text(&object["metadata"]["resourceVersion"]),
                    ..ListMeta::default()
                };
                self.table(version, &meta, columns, std::iter::once(object))
            }
        }
    }

    /// A table of objects in the client's version.
    pub(crate) fn table(
        &self,
        version: &str,
        meta: &ListMeta,
        columns: bool,
        objects: impl Iterator<Item = Value>,
    ) -> Value {
        let now = Timestamp::now();
        let rows: Vec<Value> = objects
            .map(|mut object| {
                let cells = table::cells(self.resource, &object, now);
                match self.include {
                    Include::Nothing => json!({"cells": cells}),
                    Include::Metadata => json!({"cells": cells, "object": partial(&mut object, version)}),
                    Include::Object => json!({"cells": cells, "object": object}),
                }
            })
            .collect();
        let columns = if columns { table::columns(self.resource) } else { Vec::new() };
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": meta.to_value(),
            "columnDefinitions": columns,
            "rows": rows,
        })
    }

    fn converts(&self) -> bool {
        registry::storage_of(self.resource) != self.resource
    }
}

// === impl ListMeta ===

impl ListMeta {
    pub(crate) fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.resource_version});
        if let Some(token) = &self.continue_token {
            meta["continue"] = json!(token);
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        meta
    }
}

fn partial(object: &mut Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"].take(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
