//! The state in memory: the newest entries, and the history that watches and old lists are answered from.
//!
//! Nothing here knows of disks, threads or locks; the writer decides when a change becomes visible.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use crate::{
    error::ReadError,
    types::{Entry, Event, List, ListRequest, Revision},
};

/// `history` is canonical for what happened after `compacted`; `current` is its result.
#[derive(Debug, Default)]
pub(super) struct State {
    current: BTreeMap<Arc<str>, Arc<Entry>>,
    /// One event for each revision in `compacted + 1 ..= revision`, in order: the index of an event follows from its
    /// revision.
    history: VecDeque<Arc<Event>>,
    /// The bytes of old values that only `history` keeps alive.
    history_bytes: usize,
    revision: Revision,
    compacted: Revision,
}

impl State {
    /// An empty state before its first write. Revision 0 is left free: clients of the API give it a meaning of its own.
    pub(super) fn new(compacted: Revision) -> Self {
        let start = compacted.max(1);
        Self { revision: start, compacted: start, ..Self::default() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn history_len(&self) -> usize {
        self.history.len()
    }

    pub(super) fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.current.get(key)
    }

    /// Puts an entry that was written at or before the compaction point: it has no event any more.
    pub(super) fn restore(&mut self, entry: Arc<Entry>) {
        self.current.insert(entry.key.clone(), entry);
    }

    /// Makes the write with the next revision visible.
    pub(super) fn apply(&mut self, event: Arc<Event>) {
        debug_assert_eq!(event.revision, self.revision + 1, "the writer gives revisions without a gap");
        match &event.current {
            Some(entry) => self.current.insert(entry.key.clone(), entry.clone()),
            None => self.current.remove(&event.key),
        };
        self.history_bytes += kept_bytes(&event);
        self.revision = event.revision;
        self.history.push_back(event);
    }

    /// The records that nothing can ask for once everything up to `target` is compacted.
    pub(super) fn obsolete(&self, target: Revision) -> Vec<Revision> {
        let mut records = Vec::new();
        for event in self.history.iter().take_while(|event| event.revision <= target) {
            records.extend(event.previous.as_ref().map(|entry| entry.revision));
            if event.current.is_none() {
                records.push(event.revision);
            }
        }
        records
    }

    pub(super) fn compact(&mut self, target: Revision) {
        while self.history.front().is_some_and(|event| event.revision <= target) {
            if let Some(event) = self.history.pop_front() {
                self.history_bytes -= kept_bytes(&event);
            }
        }
        self.compacted = self.compacted.max(target);
    }

    /// The revision to compact to so that no more than `events` events with no more than `bytes` bytes remain.
    pub(super) fn excess(&self, events: usize, bytes: usize) -> Option<Revision> {
        let mut drop = self.history.len().saturating_sub(events);
        let mut kept: usize = self.history.iter().skip(drop).map(|event| kept_bytes(event)).sum();
        while kept > bytes {
            kept -= kept_bytes(&self.history[drop]);
            drop += 1;
        }
        drop.checked_sub(1).map(|last| self.history[last].revision)
    }

    pub(super) fn check_compacted(&self, requested: Revision) -> Result<(), ReadError> {
        if requested < self.compacted {
            return Err(ReadError::Compacted { requested, oldest: self.compacted });
        }
        Ok(())
    }

    /// The events after `after`; it must have passed [`Self::check_compacted`].
    pub(super) fn events_after(&self, after: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let skip = usize::try_from(after.saturating_sub(self.compacted)).unwrap_or(usize::MAX);
        self.history.range(skip.min(self.history.len())..)
    }

    pub(super) fn list(&self, request: &ListRequest) -> Result<List, ReadError> {
        let revision = request.at.unwrap_or(self.revision);
        self.check_compacted(revision)?;
        if revision > self.revision {
            return Err(ReadError::Future { requested: revision, newest: self.revision });
        }
        let undone = self.undone(&request.prefix, revision);
        // A key before the prefix excludes nothing, and a range may not start before what the prefix filter ends at.
        let start: Bound<&str> = match request.after.as_deref() {
            Some(after) if after >= request.prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(&request.prefix),
        };
        let newest = self
            .current
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&request.prefix))
            .filter(|(key, _)| !undone.contains_key(*key))
            .map(|(_, entry)| entry);
        let old = undone.range::<str, _>((start, Bound::Unbounded)).filter_map(|(_, entry)| entry.as_ref());
        let mut merged = merge(newest, old);
        let limit = request.limit.unwrap_or(usize::MAX);
        let entries = merged.by_ref().take(limit).cloned().collect();
        Ok(List { entries, revision, remaining: merged.count() })
    }

    /// For each key below `prefix` that changed after `revision`: what it was at `revision`.
    fn undone(&self, prefix: &str, revision: Revision) -> BTreeMap<Arc<str>, Option<Arc<Entry>>> {
        let mut undone = BTreeMap::new();
        for event in self.events_after(revision) {
            if event.key.starts_with(prefix) {
                // The first change after `revision` knows the state at it.
                undone.entry(event.key.clone()).or_insert_with(|| event.previous.clone());
            }
        }
        undone
    }
}

fn kept_bytes(event: &Event) -> usize {
    event.previous.as_ref().map_or(0, |entry| entry.value.len())
}

/// Two disjoint sequences that are ordered by key, as one.
fn merge<'a>(
    left: impl Iterator<Item = &'a Arc<Entry>>,
    right: impl Iterator<Item = &'a Arc<Entry>>,
) -> impl Iterator<Item = &'a Arc<Entry>> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(a), Some(b)) if b.key < a.key => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
