//! HTTP: codecs at the edges, one request path between them.

pub(crate) mod body;
pub(crate) mod change;
pub(crate) mod decimal;
pub(crate) mod exchange;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod head;
pub(crate) mod io;
pub(crate) mod manager;
pub(crate) mod metadata;
pub(crate) mod path;
#[cfg(test)]
mod properties;
pub(crate) mod tunnel;
