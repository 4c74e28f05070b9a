//! Access logs: one line per request or connection, formatted where it happened and written elsewhere.
//!
//! # Guarantees
//! * Formatting appends to a buffer that the worker owns: no lock, no channel and no allocation for a line.
//! * Full buffers, and all of them ten times a second, are handed to the thread of their file. If that is behind, the
//!   buffer is dropped and its lines are counted: traffic never waits for a disk or a pipe.
//! * Where no log is configured nothing happens at all.

pub(crate) mod filter;
pub(crate) mod format;
mod metadata;
pub(crate) mod operator;
pub(crate) mod pending;
pub(crate) mod time;
pub(crate) mod writer;

use std::{net::SocketAddr, time::Duration};

pub(crate) use self::pending::Pending;
use crate::{
    access_log::{filter::Filter, format::Format, writer::Output},
    http::{exchange::Record, head::Head},
    tls::Identity,
    worker::Worker,
};

/// A configured log.
#[derive(Debug)]
pub(crate) struct AccessLog {
    /// Which requests are logged; `None` is all.
    pub(crate) filter: Option<Filter>,
    pub(crate) format: Format,
    pub(crate) output: Output,
}

/// What a line is made of.
pub(crate) struct Entry<'e> {
    /// `None` for plain TCP.
    pub(crate) request: Option<&'e Head>,
    pub(crate) response: Option<&'e Head>,
    /// 0 before there is a response.
    pub(crate) status: u16,
    pub(crate) record: &'e Record,
    pub(crate) duration: Duration,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// The number of the client's connection.
    pub(crate) connection: u64,
    /// The session with the client, and who it is.
    pub(crate) tls: Option<&'e Identity>,
}

impl AccessLog {
    /// Adds a line to what `worker` has not handed over yet, if the filter lets it pass.
    pub(crate) fn write(&self, entry: &Entry<'_>, worker: &Worker) {
        if self.filter.as_ref().is_none_or(|filter| filter.passes(entry, &worker.random)) {
            worker.log_lines.append(&self.output, |line| self.format.write(entry, line));
        }
    }
}
