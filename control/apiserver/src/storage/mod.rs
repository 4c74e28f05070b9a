//! Objects in the store, and the cache over it.

mod cache;
pub(crate) mod codec;
mod collection;
mod object;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use weft_api::{registry::Resource, status::Status};
use weft_store::{Change as StoreChange, CommitError, Entry, Expectation, Revision, Store, Write};

pub use cache::FillError;
pub(crate) use cache::{Cache, too_large, unavailable};
pub(crate) use collection::{Change, Collection};
pub(crate) use object::{Filter, Object};

/// The largest stored object, as etcd's limit for one request.
const MAX_OBJECT: usize = 3 << 19;

/// Reads and writes of single objects go to the store itself; lists and watches to the cache.
pub(crate) struct Storage {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
}

/// One object as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) bytes: Bytes,
    pub(crate) revision: Revision,
}

/// Why a conditional write did not happen.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The object is not what it was expected to be.
    Conflict,
    /// Anything else.
    Failed(Status),
}

// === impl Storage ===

impl Storage {
    pub(crate) async fn get(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Stored, Status> {
        let entry = self.store.get(&codec::key(resource, namespace, name)).await;
        let entry = entry.map_err(|error| unavailable(&error))?;
        entry.map(|entry| Stored::from(entry.as_ref())).ok_or_else(|| Status::not_found(resource, name))
    }

    /// Writes `object` if the object at its place is the one of `expected`, or if there is none.
    pub(crate) async fn put(
        &self,
        resource: &Resource,
        object: &Value,
        expected: Option<Revision>,
    ) -> Result<Stored, WriteError> {
        let fields = object.as_object();
        let fields =
            fields.ok_or_else(|| WriteError::Failed(Status::internal("the object is not a JSON object")))?;
        let encoded = codec::encode(fields);
        if encoded.bytes.len() > MAX_OBJECT {
            return Err(WriteError::Failed(Status::too_large(MAX_OBJECT)));
        }
        let change = StoreChange::Put { value: encoded.bytes, stamp: Some(encoded.stamp) };
        let event = self.commit(resource, object, expected, change).await?;
        let entry = event.ok_or_else(|| WriteError::Failed(Status::internal("the store lost a write")))?;
        Ok(Stored::from(entry.as_ref()))
    }

    /// Removes `object` if it is the one of `expected`; returns its last state at the revision of the removal.
    pub(crate) async fn remove(
        &self,
        resource: &Resource,
        object: &Value,
        expected: Revision,
    ) -> Result<(), WriteError> {
        self.commit(resource, object, Some(expected), StoreChange::Delete).await.map(drop)
    }

    async fn commit(
        &self,
        resource: &Resource,
        object: &Value,
        expected: Option<Revision>,
        change: StoreChange,
    ) -> Result<Option<Arc<Entry>>, WriteError> {
        let text = |field: &str| object["metadata"][field].as_str();
        let key = codec::key(resource, text("namespace"), text("name").unwrap_or_default());
        let expect = expected.map_or(Expectation::Absent, Expectation::Revision);
        match self.store.commit(Write { key: key.into(), expect, change }).await {
            Ok(event) => Ok(event.current.clone()),
            Err(CommitError::Conflict { .. }) => Err(WriteError::Conflict),
            Err(CommitError::Closed) => {
                Err(WriteError::Failed(Status::unavailable("the server is shutting down")))
            }
        }
    }
}

// === impl Stored ===

impl From<&Entry> for Stored {
    fn from(entry: &Entry) -> Self {
        Self { bytes: entry.value.clone(), revision: entry.revision }
    }
}

impl Stored {
    pub(crate) fn value(&self) -> Value {
        codec::decode(&self.bytes)
    }
}
