//! The PROXY protocol: how one proxy tells the next, before anything else, between whom a connection is.
//!
//! Reading is a function on bytes, [`read::parse`]; a listener filter does it for real connections. Writing is one too,
//! [`write::header`]; connections to the clusters that ask for it begin with what it gives.

pub(crate) mod read;
pub(crate) mod write;

use std::net::SocketAddr;

/// Which of the two forms a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// Between whom a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
