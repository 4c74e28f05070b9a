//! What can go wrong, by operation.

use std::{path::PathBuf, sync::Arc};

use crate::types::{Entry, Revision};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the store {path} is in use by another process; stop that one first, or choose another data directory"
    )]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The file or its directory could not be read, written or locked.
    #[error("cannot open the store {path}")]
    Storage {
        /// The database file.
        path: PathBuf,
        /// What the engine says.
        #[source]
        source: Box<redb::Error>,
    },
    /// The directory of the file could not be made or synced.
    #[error("cannot prepare the directory of the store {path}")]
    Directory {
        /// The database file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A record is not what this program writes.
    #[error("the store {path} is damaged: record {revision} {problem}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// The record's revision.
        revision: Revision,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The thread that writes could not be started.
    #[error("cannot start the thread that writes the store")]
    Thread(#[source] std::io::Error),
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The expectation does not hold. Nothing was changed.
    #[error("the key {key} is not what the write expected")]
    Conflict {
        /// The key of the write.
        key: Arc<str>,
        /// What the key is instead; `None` if it does not exist. It is durable, and who reads now finds it or newer.
        current: Option<Arc<Entry>>,
    },
    /// The store is shutting down. Whether the write happened is unknown.
    #[error("the store is shutting down")]
    Closed,
}

/// Why a read, or the start of a watch, is not possible.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The history before `oldest` is gone.
    #[error("revision {requested} is no longer kept; the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// The oldest revision that can be asked for.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future; the newest is {newest}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The store is shutting down.
    #[error("the store is shutting down")]
    Closed,
}

/// Why a running watch ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WatchError {
    /// The reader was so slow that what it would read next was compacted.
    #[error("revision {requested} is no longer kept; the oldest is {oldest}")]
    Compacted {
        /// The revision that the watch had reached.
        requested: Revision,
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
}
