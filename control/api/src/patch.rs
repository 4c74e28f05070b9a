//! The patch types of the Kubernetes API.

use serde_json::Value;
use thiserror::Error;

use crate::registry::Resource;

/// A patch that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch has more operations than are allowed.
    #[error("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
}

/// More operations than this are refused, as by Kubernetes.
pub const MAX_OPERATIONS: usize = 10_000;

/// RFC 6902.
pub fn json(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Malformed(e.to_string()))?;
    if operations.0.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.0.len()));
    }
    let mut result = target.clone();
    json_patch::patch(&mut result, &operations).map_err(|e| PatchError::Unprocessable(e.to_string()))?;
    Ok(result)
}

/// RFC 7396.
pub fn merge(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let mut result = target.clone();
    json_patch::merge(&mut result, patch);
    Ok(result)
}

/// Kubernetes' strategic merge patch.
pub fn strategic(_res: &Resource, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    merge(target, patch)
}
