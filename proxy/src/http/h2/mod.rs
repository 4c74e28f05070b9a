//! HTTP/2 over the h2 crate, behind the same heads and bodies as HTTP/1.
//!
//! h2 keeps the protocol: frames, HPACK, stream states, windows. Ours are the accept loop, what a stream may take and for
//! how long, which errors reach which side, and the bounds on what h2 does not count ([`meter`]).
//!
//! # Guarantees
//! * Data is given to h2 only within the peer's window, and taken windows are given back only as the other side takes the
//!   data: a slow reader costs a stream window and a buffer, however long the body is.
//! * A stream that the client resets is cancelled at once, with everything that was done for it.

pub(crate) mod convert;
mod lanes;
mod meter;
pub(crate) mod pings;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod sink;
pub(crate) mod source;
mod stream;
mod transport;

pub(crate) use lanes::Lanes;
pub(crate) use meter::{Budget, Meter};
pub(crate) use settings::{Http2Settings, KeepalivePings};
pub(crate) use transport::{Transport, Watch};
