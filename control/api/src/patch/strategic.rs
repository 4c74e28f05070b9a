//! Kubernetes' strategic merge patch: a merge patch that knows which lists are sets of named items.
//!
//! Directives inside a patch:
//! - `$patch: replace | delete | merge` in an object, or in an item of a merged list;
//! - `$retainKeys: [..]`: other fields of the object are removed;
//! - `$setElementOrder/FIELD: [..]`: order of the merged list;
//! - `$deleteFromPrimitiveList/FIELD: [..]`: texts to remove from a merged list.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::PatchError;
use super::list::{merge_list, ordered};
use crate::fields::{self, Field, Message};
use crate::registry::Resource;

pub(super) const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to an object of the kind.
pub fn strategic(res: &Resource, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(PatchError::Malformed("a strategic merge patch must be an object".into()));
    };
    merge_object(target.clone(), patch, fields::definition(res.definition)).map(Value::Object)
}

pub(super) fn merge_object(
    mut target: Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&'static Message>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(PATCH) {
        None => {}
        Some(directive) => match directive.as_str() {
            Some("merge") => {}
            Some("replace") => return Ok(without_directives(patch)),
            Some("delete") => return Ok(Map::new()),
            _ => return Err(PatchError::Malformed(format!("unknown patch type found: {directive}"))),
        },
    }
    retain_keys(&mut target, patch)?;
    for (name, wanted) in patch {
        if name.starts_with('$') {
            if let Some(list) = name.strip_prefix(DELETE_FROM) {
                delete_from_list(&mut target, list, wanted)?;
            } else if let Some(list) = name.strip_prefix(SET_ORDER)
                && !patch.contains_key(list)
            {
                let field = schema.and_then(|s| s.by_name(list));
                if let Some(Value::Array(items)) = target.get_mut(list) {
                    let before = items.clone();
                    *items = ordered(std::mem::take(items), &before, order_of(patch, list)?, field);
                }
            } else if name != PATCH && name != RETAIN_KEYS && !name.starts_with(SET_ORDER) {
                return Err(PatchError::Malformed(format!("unknown directive in patch: {name}")));
            }
            continue;
        }
        let field = schema.and_then(|s| s.by_name(name));
        if wanted.is_null() {
            target.remove(name);
            continue;
        }
        let merged = match (target.remove(name), wanted) {
            (Some(Value::Object(old)), Value::Object(new))
                if field.is_none_or(|f| f.patch_strategy != Some("replace")) =>
            {
                Value::Object(merge_object(old, new, field.and_then(Field::message))?)
            }
            (old, Value::Array(new)) if field.is_some_and(|f| f.merges) => {
                let old = match old {
                    Some(Value::Array(old)) => old,
                    _ => Vec::new(),
                };
                Value::Array(merge_list(old, new, order_of(patch, name)?, field)?)
            }
            // What is new is taken as it is, except that its directives have nothing to act on.
            (_, Value::Object(new)) => match new.get(PATCH).and_then(Value::as_str) {
                Some("delete") => continue,
                _ => Value::Object(merge_object(Map::new(), new, field.and_then(Field::message))?),
            },
            (_, new) => new.clone(),
        };
        target.insert(name.clone(), merged);
    }
    Ok(target)
}

fn retain_keys(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(retained) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let retained = retained
        .as_array()
        .ok_or_else(|| PatchError::Malformed("invalid patch format of retainKeys: expected a list".into()))?;
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let is_retained = |name: &str| retained.contains(name);
    if let Some(extra) =
        patch.iter().find(|(name, value)| !name.starts_with('$') && !value.is_null() && !is_retained(name))
    {
        return Err(PatchError::Malformed(format!(
            "invalid patch format of retainKeys: \"{}\" is set but not retained",
            extra.0
        )));
    }
    target.retain(|name, _| is_retained(name));
    Ok(())
}

fn delete_from_list(target: &mut Map<String, Value>, list: &str, doomed: &Value) -> Result<(), PatchError> {
    let doomed = doomed
        .as_array()
        .ok_or_else(|| PatchError::Malformed(format!("{DELETE_FROM}{list} must be a list")))?;
    if let Some(Value::Array(items)) = target.get_mut(list) {
        let doomed: HashSet<&Value> = doomed.iter().collect();
        items.retain(|item| !doomed.contains(item));
    }
    Ok(())
}

fn order_of<'p>(patch: &'p Map<String, Value>, list: &str) -> Result<Option<&'p [Value]>, PatchError> {
    match patch.get(&format!("{SET_ORDER}{list}")) {
        None => Ok(None),
        Some(Value::Array(order)) => Ok(Some(order)),
        Some(_) => Err(PatchError::Malformed(format!("{SET_ORDER}{list} must be a list"))),
    }
}

/// An object of a patch that stands for itself: directives and nulls are gone.
pub(super) fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .map(|(name, value)| {
            let value = match value {
                Value::Object(inner) => Value::Object(without_directives(inner)),
                other => other.clone(),
            };
            (name.clone(), value)
        })
        .collect()
}
