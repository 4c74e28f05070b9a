//! The patch types of the Kubernetes API. All functions leave the target alone and return the result.

mod json;
mod list;
mod strategic;

pub use self::json::{MAX_COPIED_BYTES, MAX_OPERATIONS, json};
pub use strategic::strategic;

use serde_json::Value;
use thiserror::Error;

/// A patch that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// The patch itself is malformed; 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object; 422.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch has more operations than are allowed; 413.
    #[error("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The patch would make the object too large; 413.
    #[error(
        "unable to complete the copy operations of the patch: they add up to more than {MAX_COPIED_BYTES} bytes"
    )]
    TooLarge,
}

/// RFC 7396.
pub fn merge(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be an object".into()));
    }
    let mut result = target.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

#[cfg(test)]
mod tests;
