//! Reading and completing untyped objects. Absent, null and mistyped values read as empty.

use serde_json::{Map, Value};

/// The text under `key`.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a JSON pointer.
pub(crate) fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The integer under `key`.
pub(crate) fn int(object: &Value, key: &str) -> Option<i64> {
    object.get(key).and_then(Value::as_i64)
}

/// The integer at a JSON pointer.
pub(crate) fn int_at(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The items of the list under `key`.
pub(crate) fn items<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The items of the list at a JSON pointer.
pub(crate) fn items_at<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The entries of the object under `key`.
pub(crate) fn entries<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// Whether a value is absent or null.
pub(crate) fn is_absent(object: &Value, key: &str) -> bool {
    object.get(key).is_none_or(Value::is_null)
}

/// Sets `key` unless it has a value.
pub(crate) fn set_default(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(fields) = object.as_object_mut() {
        let entry = fields.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = value.into();
        }
    }
}

/// Sets `key` unless it has a value other than the empty text.
pub(crate) fn set_default_text(object: &mut Value, key: &str, value: impl Into<Value>) {
    if text(object, key).is_empty()
        && (is_absent(object, key) || object[key].is_string())
        && let Some(fields) = object.as_object_mut()
    {
        fields.insert(key.into(), value.into());
    }
}

/// The object under `key`, created if it is absent; `None` if something else stands there.
pub(crate) fn child<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    set_default(object, key, Map::new());
    object.get_mut(key).filter(|value| value.is_object())
}

/// The objects of the list under `key`.
pub(crate) fn items_mut<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter(|item| item.is_object())
}
