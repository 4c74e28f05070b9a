//! The watch cache: everything in the store, by resource, kept current by one watch of the store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_api::{
    registry::{self, Resource},
    status::Status,
};
use weft_store::{Event, EventStream, ListRequest, ReadError, Revision, Store};

use super::{
    codec::{self, ROOT},
    collection::Collection,
    object::Object,
};

/// How long a request for a revision from the future waits for it; as kube-apiserver.
const FRESHNESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Events taken from the store at one go.
const CHUNK: usize = 512;

pub(crate) struct Cache {
    store: Arc<dyn Store>,
    /// By the first part of the keys. The set never changes.
    collections: BTreeMap<&'static str, Arc<Collection>>,
    /// Everything up to here is in `collections`.
    revision: watch::Sender<Revision>,
}

/// Why the cache cannot be filled.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the store")]
pub struct FillError(#[source] ReadError);

impl Cache {
    /// Reads the whole store, from the oldest state that it still knows, so that watches can go on where they were before a
    /// restart.
    pub(crate) async fn fill(store: Arc<dyn Store>) -> Result<(Arc<Self>, EventStream), FillError> {
        let storages = registry::all().iter().map(|resource| resource.storage);
        let collections = storages.map(|storage| (storage, Arc::new(Collection::new()))).collect();
        let cache = Arc::new(Self { store, collections, revision: watch::channel(0).0 });
        let oldest = match cache.store.watch(ROOT, 0).await {
            Err(ReadError::Compacted { oldest, .. }) => oldest,
            Err(error) => return Err(FillError(error)),
            Ok(_) => 0,
        };
        let events = cache.load(Some(oldest)).await?;
        Ok((cache, events))
    }

    async fn load(&self, at: Option<Revision>) -> Result<EventStream, FillError> {
        let request = ListRequest { prefix: ROOT.to_owned(), at, ..ListRequest::default() };
        let list = self.store.list(request).await.map_err(FillError)?;
        for (storage, collection) in &self.collections {
            let prefix = format!("{ROOT}{storage}/");
            let entries = list.entries.iter().filter(|entry| entry.key.starts_with(&prefix));
            collection.reset(entries.map(|entry| Arc::new(Object::new(entry))), list.revision);
        }
        let events = self.store.watch(ROOT, list.revision).await.map_err(FillError)?;
        self.revision.send_replace(list.revision);
        Ok(events)
    }

    /// Follows the store until it closes or `shutdown` is cancelled.
    pub(crate) async fn follow(self: Arc<Self>, events: EventStream, shutdown: CancellationToken) {
        let mut chunks = events.ready_chunks(CHUNK);
        while let Some(Some(chunk)) = shutdown.run_until_cancelled(chunks.next()).await {
            let mut newest = None;
            let mut lost = false;
            for event in chunk {
                match event {
                    Ok(event) => {
                        self.apply(&event);
                        newest = Some(event.revision);
                    }
                    Err(_) => lost = true,
                }
            }
            if let Some(newest) = newest {
                self.revision.send_replace(newest);
            }
            if lost {
                tracing::warn!("the cache fell behind the store, reading everything again");
                match self.load(None).await {
                    Ok(events) => chunks = events.ready_chunks(CHUNK),
                    Err(error) => {
                        tracing::error!(error = %weft_kit::error::chain(&error), "cannot fill the cache again");
                        return;
                    }
                }
            }
        }
    }

    fn apply(&self, event: &Event) {
        let Some(rest) = event.key.strip_prefix(ROOT) else { return };
        let owner = self
            .collections
            .iter()
            .find(|(storage, _)| rest.strip_prefix(**storage).is_some_and(|rest| rest.starts_with('/')));
        if let Some((_, collection)) = owner {
            collection.apply(event);
        }
    }

    pub(crate) fn collection(&self, resource: &Resource) -> &Arc<Collection> {
        self.collections.get(resource.storage).expect("the map was built from the same registry")
    }

    /// The objects of a resource at one revision.
    pub(crate) fn snapshot(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
    ) -> (Vec<Arc<Object>>, Revision) {
        // Read first: everything up to it is in the list. What the list holds beyond it, it holds completely.
        let at_least = self.revision();
        let (objects, newest) = self.collection(resource).list(&codec::prefix(resource, namespace));
        (objects, newest.max(at_least))
    }

    /// The revision that the cache shows.
    pub(crate) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Waits until the cache shows everything that was acknowledged before the call.
    pub(crate) async fn catch_up(&self) -> Result<(), Status> {
        let newest = self.store.revision().await.map_err(|error| unavailable(&error))?;
        self.wait_for(newest).await
    }

    /// Waits until the cache shows `revision`.
    pub(crate) async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        let mut current = self.revision.subscribe();
        let reached = current.wait_for(|current| *current >= revision);
        match tokio::time::timeout(FRESHNESS_TIMEOUT, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Status::unavailable("the server is shutting down")),
            Err(_) => Err(too_large(revision, self.revision())),
        }
    }

    /// How many objects there are of each stored resource.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> + '_ {
        self.collections.iter().map(|(storage, collection)| (*storage, collection.len()))
    }
}

pub(crate) fn too_large(requested: Revision, newest: Revision) -> Status {
    let mut status = Status::timeout(format!("Too large resource version: {requested}, current: {newest}"));
    if let Some(details) = &mut status.details {
        details.retry_after_seconds = Some(1);
    }
    status
}

pub(crate) fn unavailable(error: &ReadError) -> Status {
    Status::unavailable(error.to_string())
}
