//! HTTP/1: a codec of our own, for speed and for strictness.
//!
//! `scan`, `parse`, `framing`, `chunked` and `compose` know the protocol and no sockets; `body` and `write` join them to
//! buffers and sockets; `server` and `client` are the two ends of a connection.
//!
//! What is forwarded is always written anew from what was understood: no line of a peer's framing is copied.

pub(crate) mod body;
pub(crate) mod chunked;
pub(crate) mod client;
pub(crate) mod compose;
pub(crate) mod framing;
pub(crate) mod parse;
pub(crate) mod scan;
pub(crate) mod server;
pub(crate) mod write;
