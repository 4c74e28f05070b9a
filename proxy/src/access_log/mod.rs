//! Access logs: one line per request or connection, formatted where it happened and written elsewhere.

pub(crate) mod format;
pub(crate) mod writer;

use std::{net::SocketAddr, time::Duration};

use crate::{
    access_log::{format::Format, writer::Output},
    http::{exchange::Record, head::Head},
};

/// A configured log.
#[derive(Debug)]
pub(crate) struct AccessLog {
    pub(crate) format: Format,
    pub(crate) output: Output,
}

/// What a line is made of.
pub(crate) struct Entry<'e> {
    /// `None` for plain TCP.
    pub(crate) request: Option<&'e Head>,
    pub(crate) response: Option<&'e Head>,
    pub(crate) record: &'e Record,
    pub(crate) duration: Duration,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl AccessLog {
    /// Formats a line and hands it over; if the writer is behind, the line is dropped and counted: traffic never waits
    /// for a disk.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        self.output.send(self.format.line(entry));
    }
}
