//! The objects of one resource, and what happened to them lately.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;
use weft_store::{Event, Revision};

use super::{codec, object::Object};

/// Events kept for watches that start, or have fallen, behind. A watch is a position in them, so a slow client costs
/// nothing but is told to start over once its position has been dropped.
const KEEP_EVENTS: usize = 4096;

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) key: Arc<str>,
    pub(crate) current: Option<Arc<Object>>,
    pub(crate) previous: Option<Arc<Object>>,
    /// See [`Self::farewell`].
    farewell: OnceLock<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Collection {
    inner: RwLock<Inner>,
    /// The revision of the newest change; told after it is visible.
    newest: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    /// In the order of their revisions; holds every change after `dropped`.
    log: VecDeque<Arc<Change>>,
    dropped: Revision,
}

/// Changes from before a position are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) oldest: Revision,
}

// === impl Change ===

impl Change {
    /// The object as it last was, at the revision of this change: what a client gets whose selection it leaves.
    pub(crate) fn farewell(&self) -> Option<&Bytes> {
        let previous = self.previous.as_ref()?;
        Some(self.farewell.get_or_init(|| codec::restamp(&previous.bytes, self.revision)))
    }
}

// === impl Collection ===

impl Collection {
    pub(crate) fn new() -> Self {
        Self { inner: RwLock::default(), newest: watch::channel(0).0 }
    }

    /// Replaces everything. Watches that have not reached `revision` are told to start over.
    pub(crate) fn reset(&self, objects: impl Iterator<Item = Arc<Object>>, revision: Revision) {
        let objects = objects.map(|object| (object.key.clone(), object)).collect();
        *self.inner.write() = Inner { objects, log: VecDeque::new(), dropped: revision };
        self.newest.send_replace(revision);
    }

    pub(crate) fn apply(&self, event: &Event) {
        let current = event.current.as_deref().map(|entry| Arc::new(Object::new(entry)));
        {
            let mut inner = self.inner.write();
            let previous = match &current {
                Some(object) => inner.objects.insert(object.key.clone(), object.clone()),
                None => inner.objects.remove(&event.key),
            };
            let change = Change {
                revision: event.revision,
                key: event.key.clone(),
                current,
                previous,
                farewell: OnceLock::new(),
            };
            inner.log.push_back(Arc::new(change));
            if inner.log.len() > KEEP_EVENTS {
                let dropped = inner.log.pop_front().map(|change| change.revision);
                inner.dropped = dropped.unwrap_or(inner.dropped);
            }
        }
        self.newest.send_replace(event.revision);
    }

    /// The objects below a prefix, in the order of their keys, and the revision of the newest change that is in them.
    pub(crate) fn list(&self, prefix: &str) -> (Vec<Arc<Object>>, Revision) {
        let inner = self.inner.read();
        let range = inner.objects.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let objects = range.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, object)| object.clone());
        (objects.collect(), inner.log.back().map_or(inner.dropped, |change| change.revision))
    }

    /// Up to `limit` changes after a revision.
    pub(crate) fn changes_after(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Change>>, Dropped> {
        let inner = self.inner.read();
        if after < inner.dropped {
            return Err(Dropped { oldest: inner.dropped });
        }
        let start = inner.log.partition_point(|change| change.revision <= after);
        Ok(inner.log.range(start..).take(limit).cloned().collect())
    }

    /// Tells of new changes.
    pub(crate) fn newest(&self) -> watch::Receiver<Revision> {
        self.newest.subscribe()
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.read().objects.len()
    }
}
