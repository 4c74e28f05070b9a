//! What the writer keeps on disk: one record for each write that something can still ask for.
//!
//! The key of a record is its revision, so a commit only appends. The newest record of each key, and all records after
//! the compaction point, are enough to rebuild [`State`].

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    record::{self, Record},
    state::State,
};
use crate::{
    error::OpenError,
    types::{Entry, Event, Revision},
};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const MARKS: TableDefinition<'_, &str, u64> = TableDefinition::new("marks");
const COMPACTED: &str = "compacted";

/// Everything is also in memory and records are only appended: a page cache would hold what nobody reads.
const CACHE_BYTES: usize = 16 << 20;

/// Revisions and their records, in order, not decoded yet.
type RawRecords = Vec<(Revision, Vec<u8>)>;

/// The database file, open and locked.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
}

/// One durable commit.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The writes, in the order of their revisions.
    pub(super) events: Vec<Arc<Event>>,
    /// The new compaction point, and the records that it makes obsolete.
    pub(super) compaction: Option<(Revision, Vec<Revision>)>,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<(Self, State), OpenError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let prepared = directory.map_or(Ok(()), std::fs::create_dir_all);
        prepared.map_err(|source| OpenError::Directory { path: path.into(), source })?;
        let database = builder().create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.into() },
            other => storage(path)(other.into()),
        })?;
        if let Some(directory) = directory {
            // A new file whose directory entry is lost in a power cut would take acknowledged writes with it.
            std::fs::File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|source| OpenError::Directory { path: path.into(), source })?;
        }
        Self::with_database(database, path)
    }

    #[cfg(test)]
    pub(super) fn with_backend(backend: impl redb::StorageBackend) -> Result<(Self, State), OpenError> {
        let path = Path::new("test backend");
        let database = builder().create_with_backend(backend).map_err(|error| storage(path)(error.into()))?;
        Self::with_database(database, path)
    }

    fn with_database(database: Database, path: &Path) -> Result<(Self, State), OpenError> {
        let disk = Self { database };
        disk.create_tables().map_err(storage(path))?;
        let state = disk.load(path)?;
        Ok((disk, state))
    }

    fn create_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(MARKS)?;
        transaction.commit()?;
        Ok(())
    }

    fn load(&self, path: &Path) -> Result<State, OpenError> {
        let (compacted, records) = self.read_all().map_err(storage(path))?;
        let mut state = State::new(compacted);
        let mut latest: HashMap<Arc<str>, Arc<Entry>> = HashMap::new();
        for (revision, bytes) in records {
            let damaged = |problem| OpenError::Damaged { path: PathBuf::from(path), revision, problem };
            let record = record::decode(revision, &bytes).map_err(damaged)?;
            if revision <= state.compacted() {
                match record {
                    Record::Put(entry) => {
                        latest.insert(entry.key.clone(), entry.clone());
                        state.restore(entry);
                    }
                    Record::Delete(_) => return Err(damaged("deletes a key before the compaction point")),
                }
                continue;
            }
            if revision != state.revision() + 1 {
                return Err(damaged("does not follow the one before it"));
            }
            let (key, current) = match record {
                Record::Put(entry) => (entry.key.clone(), Some(entry)),
                Record::Delete(key) => (key, None),
            };
            let previous = match &current {
                Some(entry) => latest.insert(key.clone(), entry.clone()),
                None => latest.remove(&key),
            };
            state.apply(Arc::new(Event { revision, key, current, previous }));
        }
        Ok(state)
    }

    fn read_all(&self) -> Result<(Revision, RawRecords), redb::Error> {
        let transaction = self.database.begin_read()?;
        let compacted = transaction.open_table(MARKS)?.get(COMPACTED)?.map_or(0, |mark| mark.value());
        let mut records = Vec::new();
        for record in transaction.open_table(RECORDS)?.iter()? {
            let (revision, bytes) = record?;
            records.push((revision.value(), bytes.value().to_vec()));
        }
        Ok((compacted, records))
    }

    /// Makes `batch` durable. After an error nothing is known about what is on disk; the process has to stop.
    pub(super) fn commit(&self, batch: &Batch) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(redb::Durability::Immediate)?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            for event in &batch.events {
                records.insert(event.revision, record::encode(event).as_slice())?;
            }
            if let Some((target, obsolete)) = &batch.compaction {
                for revision in obsolete {
                    records.remove(revision)?;
                }
                transaction.open_table(MARKS)?.insert(COMPACTED, target)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    // Start-up reads every page anyway; with this, one that the disk changed is refused instead of served.
    builder.set_check_integrity_on_open(true).set_cache_size(CACHE_BYTES);
    builder
}

fn storage(path: &Path) -> impl Fn(redb::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Storage { path: path.clone(), source: Box::new(source) }
}
