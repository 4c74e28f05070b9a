//! The shape of each kind: what is unknown or mistyped in an object, and what is not part of its kind.

mod check;
mod definitions;
mod shape;

pub(crate) use definitions::{REFERENCE, definitions};

pub use crate::openapi::{openapi_v2, openapi_v3};
pub use check::{SchemaReport, check, prune};

#[cfg(test)]
mod tests;
