//! What goes into a store and comes out of it.

use std::sync::Arc;

use bytes::Bytes;

/// The store's version of everything. Each write has its own; `0` comes before all of them.
pub type Revision = u64;

/// One key as some write left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// What was written.
    pub value: Bytes,
    /// The write that put this value.
    pub revision: Revision,
    /// The write that created the key, since it last did not exist.
    pub created: Revision,
}

/// One write, as watchers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The write's revision.
    pub revision: Revision,
    /// The key that it changed.
    pub key: Arc<str>,
    /// The key after the write; `None` if the write deleted it.
    pub current: Option<Arc<Entry>>,
    /// The key before the write; `None` if the write created it.
    pub previous: Option<Arc<Entry>>,
}

/// A change of one key, on a condition.
#[derive(Debug, Clone)]
pub struct Write {
    /// The key to change.
    pub key: Arc<str>,
    /// What must hold for the write to happen.
    pub expect: Expectation,
    /// What happens to the key.
    pub change: Change,
}

/// The condition of a [`Write`]. There is no "anything goes": a blind write is a lost update waiting to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// The key does not exist.
    Absent,
    /// The key was last written by the write with this revision.
    Revision(Revision),
}

/// What a [`Write`] does.
#[derive(Debug, Clone)]
pub enum Change {
    /// Sets the value.
    Put {
        /// The new value.
        value: Bytes,
        /// Where in `value` the store inserts the decimal digits of the write's revision, if it is to do so.
        ///
        /// A value that carries its own revision can be handed to readers as it is, without being taken apart.
        stamp: Option<usize>,
    },
    /// Removes the key.
    Delete,
}

/// Which part of which state to list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys after this one (not including it).
    pub after: Option<String>,
    /// At most this many.
    pub limit: Option<usize>,
    /// The state at this revision instead of the newest.
    pub at: Option<Revision>,
}

/// An answer to a [`ListRequest`].
#[derive(Debug, Clone)]
pub struct List {
    /// The entries in the order of their keys.
    pub entries: Vec<Arc<Entry>>,
    /// The revision whose state this is.
    pub revision: Revision,
    /// How many more entries the limit cut off.
    pub remaining: usize,
}
