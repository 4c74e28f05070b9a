//! The embedded engine: redb for what must survive, memory for everything that is asked.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use self::{
    disk::Disk,
    state::State,
    writer::{Request, Writer},
};
use crate::{
    error::{CommitError, OpenError, ReadError},
    store::{EventStream, Store},
    types::{Entry, Event, List, ListRequest, Revision, Write},
};

mod disk;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

/// Writes that may wait for the writer before more of them have to wait to be handed over.
const QUEUE: usize = 4096;

/// How much history an [`EmbeddedStore`] keeps.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many of the newest revisions can be watched from and listed at. Default 10,000: with the churn of a busy
    /// small cluster that is the five minutes that etcd keeps for kube-apiserver.
    pub keep_revisions: usize,
    /// How many bytes of overwritten and deleted values the history may hold in memory. Default 64 MiB.
    pub keep_bytes: usize,
}

/// Counters since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statistics {
    /// Writes that were made durable.
    pub writes: u64,
    /// Durable commits, each of one or more writes.
    pub commits: u64,
    /// The revision of the newest write.
    pub revision: Revision,
    /// The oldest revision that can be listed at and watched from.
    pub compacted: Revision,
}

/// A [`Store`] in one file of this machine.
///
/// Dropping it finishes the writes that are on their way and releases the file. If a commit fails, the process is
/// aborted: after a failed sync nothing can be promised about what is on disk.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    newest: tokio::sync::watch::Receiver<Revision>,
    /// `None` only while being dropped.
    requests: Option<mpsc::Sender<Request>>,
    /// `None` only while being dropped.
    writer: Option<JoinHandle<()>>,
}

/// What the writer publishes and everyone reads.
#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    commits: AtomicU64,
    writes: AtomicU64,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep_revisions: 10_000, keep_bytes: 64 << 20 }
    }
}

// === impl EmbeddedStore ===

impl EmbeddedStore {
    /// Opens or creates the database file `path` and reads it into memory. Blocks; for start-up.
    pub fn open(path: &Path, options: Options) -> Result<Self, OpenError> {
        Self::start(Disk::open(path)?, options)
    }

    /// What was written since the store was opened.
    pub fn statistics(&self) -> Statistics {
        let state = self.shared.state.read();
        Statistics {
            writes: self.shared.writes.load(Ordering::Relaxed),
            commits: self.shared.commits.load(Ordering::Relaxed),
            revision: state.revision(),
            compacted: state.compacted(),
        }
    }

    fn start((disk, state): (Disk, State), options: Options) -> Result<Self, OpenError> {
        let (newest_tx, newest) = tokio::sync::watch::channel(state.revision());
        let (requests, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            commits: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        });
        let writer = Writer { disk, shared: shared.clone(), options, requests: queue, newest: newest_tx };
        let writer = std::thread::Builder::new()
            .name("weft-store".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok(Self { shared, newest, requests: Some(requests), writer: Some(writer) })
    }

    /// Hands a request to the writer; `None` if it is gone, before or after it took the request.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.requests.as_ref()?.send(request(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to finish, and said so on its own.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, ReadError> {
        Ok(self.shared.state.read().get(key).cloned())
    }

    async fn list(&self, request: ListRequest) -> Result<List, ReadError> {
        self.shared.state.read().list(&request)
    }

    async fn commit(&self, write: Write) -> Result<Arc<Event>, CommitError> {
        self.ask(|reply| Request::Commit(write, reply)).await.unwrap_or(Err(CommitError::Closed))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<EventStream, ReadError> {
        watch::start(&self.shared, self.newest.clone(), prefix, after)
    }

    async fn compact(&self, revision: Revision) -> Result<(), ReadError> {
        self.ask(|reply| Request::Compact(revision, reply)).await.unwrap_or(Err(ReadError::Closed))
    }

    async fn revision(&self) -> Result<Revision, ReadError> {
        Ok(self.shared.state.read().revision())
    }
}

// === impl Shared ===

impl Shared {
    fn count_commit(&self, writes: usize) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(writes as u64, Ordering::Relaxed);
    }
}
