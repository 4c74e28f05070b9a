//! Label and field selectors.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::{LabelSelector, Labels, Operator, Requirement};

use thiserror::Error;

/// A selector that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// The text breaks the grammar.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// The kind has no such selectable field.
    #[error("field label not supported: {0}")]
    UnsupportedField(String),
}
