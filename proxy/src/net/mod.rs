//! Connections as bytes, whatever is below them.

mod stream;

pub(crate) use stream::{Stream, exhausted};
