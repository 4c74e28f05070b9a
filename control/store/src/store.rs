//! The trait that every engine implements.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{
    error::{CommitError, ReadError, WatchError},
    types::{Entry, Event, List, ListRequest, Revision, Write},
};

/// The events of a watch, in order. Ends without an error when the store closes.
pub type EventStream = BoxStream<'static, Result<Arc<Event>, WatchError>>;

/// An ordered map with revisions; see the [crate] for what every engine guarantees.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry of `key`, if it exists.
    async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, ReadError>;

    /// The entries of a prefix at one revision.
    async fn list(&self, request: ListRequest) -> Result<List, ReadError>;

    /// Makes a change if what it expects holds; returns its event once it is durable.
    async fn commit(&self, write: Write) -> Result<Arc<Event>, CommitError>;

    /// Every write after revision `after` to a key that begins with `prefix`.
    ///
    /// A revision that has not happened yet is waited for.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<EventStream, ReadError>;

    /// Forgets the history up to `revision`: lists and watches from before it are refused from then on.
    ///
    /// A revision that is already forgotten is fine; one from the future is not.
    async fn compact(&self, revision: Revision) -> Result<(), ReadError>;

    /// The revision of the newest acknowledged write.
    async fn revision(&self) -> Result<Revision, ReadError>;
}
