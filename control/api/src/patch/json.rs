//! RFC 6902, with bounds: a short patch must not be able to make a huge or bottomless object.

use json_patch::jsonptr::Pointer;
use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::PatchError;

/// More operations than this are refused, as by Kubernetes.
pub const MAX_OPERATIONS: usize = 10_000;
/// Copy operations together may copy as much as this.
pub const MAX_COPIED_BYTES: usize = 8 << 20;

/// No deeper than what the body parser accepts, see [`crate::json`].
const MAX_DEPTH: usize = 100;

/// Applies an RFC 6902 patch. Either all operations apply or none.
pub fn json(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    if let Some(operations) = patch.as_array().map(Vec::len).filter(|n| *n > MAX_OPERATIONS) {
        return Err(PatchError::TooManyOperations(operations));
    }
    let Patch(operations) = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    let mut result = target.clone();
    let mut copied = 0;
    for operation in &operations {
        check_bounds(&result, operation, &mut copied)?;
        json_patch::patch(&mut result, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Unprocessable(error.to_string()))?;
    }
    Ok(result)
}

/// Every operation that puts a value somewhere must keep the whole within [`MAX_DEPTH`]; then nothing that recurses over the
/// result can run out of stack.
fn check_bounds(document: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), PatchError> {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Move(step) => (&step.path, at(document, &step.from)),
        PatchOperation::Copy(step) => {
            let value = at(document, &step.from);
            *copied += value.map_or(0, |value| value.to_string().len());
            if *copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge);
            }
            (&step.path, value)
        }
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    if path.count() + value.map_or(0, depth) > MAX_DEPTH {
        return Err(PatchError::Unprocessable(format!(
            "the object would nest deeper than {MAX_DEPTH} levels"
        )));
    }
    Ok(())
}

fn at<'a>(document: &'a Value, pointer: &Pointer) -> Option<&'a Value> {
    document.pointer(pointer.as_str())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
