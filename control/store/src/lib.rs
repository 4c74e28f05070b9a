//! Revisions, compare-and-swap and watches: what the API server keeps its objects in.
//!
//! A [`Store`] is an ordered map from text keys to bytes with one counter, the [`Revision`], that every write
//! advances by one. Whoever reads at a revision and then watches from it misses nothing and sees nothing twice.
//!
//! # Guarantees
//! * A write that was acknowledged is durable, and a write that was refused changed nothing.
//! * Revisions only grow, also across restarts; each belongs to exactly one write.
//! * A watch delivers the writes below its prefix in the order of their revisions, without a gap. Where that is no
//!   longer possible it ends with [`WatchError::Compacted`] instead.
//! * A list shows the state at one revision.
//!
//! # Caveats
//! * History is bounded: revisions before the compaction point can be neither listed nor watched from.

mod embedded;
mod error;
mod store;
mod types;

pub use embedded::{EmbeddedStore, Options, Statistics};
pub use error::{CommitError, OpenError, ReadError, WatchError};
pub use store::{EventStream, Store};
pub use types::{Change, Entry, Event, Expectation, List, ListRequest, Revision, Write};
