//! The one thread that writes: takes all writes that wait, gives each its revision, commits them together.
//!
//! While a commit is on its way to the disk the next writes gather, so the number of commits follows the speed of the
//! disk and not the number of writers.

use std::{collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Options, Shared,
    disk::{Batch, Disk},
};
use crate::{
    error::{CommitError, ReadError},
    types::{Change, Entry, Event, Expectation, Revision, Write},
};

/// Bounds the time until the first write of a batch is acknowledged, and the memory of a batch.
const MAX_BATCH: usize = 1024;

type CommitReply = oneshot::Sender<Result<Arc<Event>, CommitError>>;

/// What other threads ask of the writer.
#[derive(Debug)]
pub(super) enum Request {
    Commit(Write, CommitReply),
    Compact(Revision, oneshot::Sender<Result<(), ReadError>>),
}

/// Runs until every sender of `requests` is gone.
pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Told after the state changed; watchers wait on it.
    pub(super) newest: watch::Sender<Revision>,
}

/// A batch in the making. Later writes of a batch see what earlier ones did through `changed`.
#[derive(Default)]
struct Pending {
    batch: Batch,
    changed: HashMap<Arc<str>, Option<Arc<Entry>>>,
    committed: Vec<(CommitReply, Arc<Event>)>,
    /// Answered with the rest: what beat them may be in this batch, and whoever is refused reads again at once.
    refused: Vec<(CommitReply, CommitError)>,
    compacted: Vec<oneshot::Sender<Result<(), ReadError>>>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut requests = Vec::new();
        while self.requests.blocking_recv_many(&mut requests, MAX_BATCH) > 0 {
            let pending = self.prepare(requests.drain(..));
            if pending.batch.events.is_empty() && pending.batch.compaction.is_none() {
                refuse(pending.refused);
                continue;
            }
            if let Err(error) = self.disk.commit(&pending.batch) {
                self.die(&error);
            }
            self.publish(pending);
        }
    }

    /// Decides each request. Only this thread changes the state, so what it read stays true until [`Self::publish`].
    fn prepare(&self, requests: impl Iterator<Item = Request>) -> Pending {
        let state = self.shared.state.read();
        let mut pending = Pending::default();
        let mut target = None;
        let mut revision = state.revision();
        for request in requests {
            match request {
                Request::Commit(write, reply) => {
                    let current = match pending.changed.get(&write.key) {
                        Some(changed) => changed.clone(),
                        None => state.get(&write.key).cloned(),
                    };
                    match decide(write, current, revision + 1) {
                        Ok(event) => {
                            revision = event.revision;
                            let event = Arc::new(event);
                            pending.changed.insert(event.key.clone(), event.current.clone());
                            pending.batch.events.push(event.clone());
                            pending.committed.push((reply, event));
                        }
                        Err(error) => pending.refused.push((reply, error)),
                    }
                }
                // A writer that went away does not wait for its answer; here and below.
                Request::Compact(to, reply) if to > state.revision() => {
                    let _ = reply.send(Err(ReadError::Future { requested: to, newest: state.revision() }));
                }
                Request::Compact(to, reply) => {
                    target = target.max(Some(to));
                    pending.compacted.push(reply);
                }
            }
        }
        // Some slack, so that not every write pays for removing one old record.
        if state.history_len() > self.options.keep_revisions + self.options.keep_revisions / 4
            || state.history_bytes() > self.options.keep_bytes + self.options.keep_bytes / 4
        {
            target = target.max(state.excess(self.options.keep_revisions, self.options.keep_bytes));
        }
        if let Some(target) = target.filter(|target| *target > state.compacted()) {
            pending.batch.compaction = Some((target, state.obsolete(target)));
        } else {
            for reply in pending.compacted.drain(..) {
                let _ = reply.send(Ok(()));
            }
        }
        pending
    }

    fn publish(&self, pending: Pending) {
        let revision = {
            let mut state = self.shared.state.write();
            for event in &pending.batch.events {
                state.apply(event.clone());
            }
            if let Some((target, _)) = pending.batch.compaction {
                state.compact(target);
            }
            state.revision()
        };
        self.shared.count_commit(pending.batch.events.len());
        self.newest.send_replace(revision);
        for (reply, event) in pending.committed {
            let _ = reply.send(Ok(event));
        }
        refuse(pending.refused);
        for reply in pending.compacted {
            let _ = reply.send(Ok(()));
        }
    }

    /// After a failed commit the page cache may hold what the disk does not: every later answer, and a repeated sync,
    /// could be a lie ("Can applications recover from fsync failures?", ATC 2020).
    fn die(&self, error: &redb::Error) -> ! {
        tracing::error!(error = %weft_kit::error::chain(error), "cannot make a write durable, stopping the process");
        std::process::abort()
    }
}

fn refuse(refused: Vec<(CommitReply, CommitError)>) {
    for (reply, error) in refused {
        let _ = reply.send(Err(error));
    }
}

/// The event of `write`, if what it expects of `current` holds.
fn decide(write: Write, current: Option<Arc<Entry>>, revision: Revision) -> Result<Event, CommitError> {
    let holds = match (write.expect, &current) {
        (Expectation::Absent, None) => true,
        (Expectation::Revision(expected), Some(entry)) => entry.revision == expected,
        _ => false,
    };
    if !holds {
        return Err(CommitError::Conflict { key: write.key, current });
    }
    let created = current.as_ref().map_or(revision, |entry| entry.created);
    let entry = match write.change {
        Change::Put { value, stamp } => Some(Arc::new(Entry {
            key: write.key.clone(),
            value: stamp.map_or_else(|| value.clone(), |at| stamped(&value, at, revision)),
            revision,
            created,
        })),
        Change::Delete => None,
    };
    Ok(Event { revision, key: write.key, current: entry, previous: current })
}

fn stamped(value: &Bytes, at: usize, revision: Revision) -> Bytes {
    let (before, after) = value.split_at(at.min(value.len()));
    let digits = revision.to_string();
    let mut stamped = BytesMut::with_capacity(value.len() + digits.len());
    stamped.extend_from_slice(before);
    stamped.extend_from_slice(digits.as_bytes());
    stamped.extend_from_slice(after);
    stamped.freeze()
}
