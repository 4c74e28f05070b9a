//! Finalizers: who still has something to do before an object may go.

use serde_json::Value;

/// The dependents are to be kept.
pub(crate) const ORPHAN: &str = "orphan";
/// The dependents are to go first.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// Adds or removes one finalizer.
pub(crate) fn set(object: &mut Value, finalizer: &str, wanted: bool) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    let mut list = match metadata.remove("finalizers") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let position = list.iter().position(|item| item == finalizer);
    match (position, wanted) {
        (None, true) => list.push(finalizer.into()),
        (Some(position), false) => drop(list.remove(position)),
        _ => {}
    }
    if !list.is_empty() {
        metadata.insert("finalizers".to_owned(), Value::Array(list));
    }
}

/// Whether nobody has anything left to do. A namespace has a second list.
pub(crate) fn are_done(object: &Value) -> bool {
    let done = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let namespace = object["kind"] == "Namespace";
    done(&object["metadata"]["finalizers"]) && (!namespace || done(&object["spec"]["finalizers"]))
}
