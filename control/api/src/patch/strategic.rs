//! Kubernetes' strategic merge patch: a merge patch that knows which lists are sets of named items.
//!
//! Directives inside a patch:
//! - `$patch: replace | delete | merge` in an object, or in an item of a merged list;
//! - `$retainKeys: [..]`: other fields of the object are removed;
//! - `$setElementOrder/FIELD: [..]`: order of the merged list;
//! - `$deleteFromPrimitiveList/FIELD: [..]`: texts to remove from a merged list.

use serde_json::{Map, Value};

use super::PatchError;
use crate::fields::{self, Field, Kind, Message};
use crate::registry::Resource;

const PATCH: &str = "$patch";
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

fn merge_object(
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
                    *items = ordered(std::mem::take(items), order_of(patch, list)?, merge_key(field));
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
    let is_retained = |name: &str| retained.iter().any(|r| r.as_str() == Some(name));
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

fn merge_key(field: Option<&'static Field>) -> Option<&'static str> {
    field.and_then(|f| f.merge_key)
}

fn merge_list(
    old: Vec<Value>,
    new: &[Value],
    order: Option<&[Value]>,
    field: Option<&'static Field>,
) -> Result<Vec<Value>, PatchError> {
    let merged = match (merge_key(field), field.map(|f| f.kind)) {
        (Some(key), Some(Kind::Message(_))) => {
            merge_named(old.clone(), new, key, field.and_then(Field::message))?
        }
        _ => {
            let mut merged = old.clone();
            for item in new {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            merged
        }
    };
    Ok(match order {
        Some(_) => ordered_after(merged, &old, order, merge_key(field)),
        None => merged,
    })
}

fn merge_named(
    mut items: Vec<Value>,
    patch: &[Value],
    key: &'static str,
    schema: Option<&'static Message>,
) -> Result<Vec<Value>, PatchError> {
    let objects = patch
        .iter()
        .map(|item| {
            item.as_object().ok_or_else(|| PatchError::Malformed(format!("expected an object, got {item}")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let directive = |item: &Map<String, Value>| item.get(PATCH).and_then(Value::as_str).map(str::to_owned);
    if objects.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        return Ok(objects
            .iter()
            .filter(|item| directive(item).is_none())
            .map(|item| Value::Object(without_directives(item)))
            .collect());
    }
    for item in objects {
        let name = item.get(key).ok_or_else(|| {
            PatchError::Malformed(format!(
                "map: {} does not contain declared merge key: {key}",
                Value::Object(item.clone())
            ))
        })?;
        let place = items.iter().position(|old| old.get(key) == Some(name));
        match directive(item).as_deref() {
            // Several items can share a merge key, as ports of two protocols do: all of them go.
            Some("delete") => items.retain(|old| old.get(key) != Some(name)),
            None | Some("merge") => match place.and_then(|place| items.get_mut(place)) {
                Some(old) => {
                    let fields = old.as_object_mut().map(std::mem::take).unwrap_or_default();
                    *old = Value::Object(merge_object(fields, item, schema)?);
                }
                None => items.push(Value::Object(merge_object(Map::new(), item, schema)?)),
            },
            Some(other) => return Err(PatchError::Malformed(format!("unknown patch type found: {other}"))),
        }
    }
    Ok(items)
}

/// An object of a patch that stands for itself: directives and nulls are gone.
fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
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

fn ordered(items: Vec<Value>, order: Option<&[Value]>, key: Option<&'static str>) -> Vec<Value> {
    let before = items.clone();
    ordered_after(items, &before, order, key)
}

/// Brings the items that `order` names into its order; the others keep their places relative to the list as it was.
fn ordered_after(
    items: Vec<Value>,
    before: &[Value],
    order: Option<&[Value]>,
    key: Option<&'static str>,
) -> Vec<Value> {
    let Some(order) = order else { return items };
    let identity = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or_default(),
        None => item.clone(),
    };
    let wanted: Vec<Value> = order.iter().map(identity).collect();
    let was: Vec<Value> = before.iter().map(identity).collect();
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| wanted.contains(&identity(item)));
    named.sort_by_key(|item| wanted.iter().position(|w| *w == identity(item)));
    let place = |item: &Value| was.iter().position(|w| *w == identity(item));
    let mut merged = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(left), Some(right)) = (others.peek(), named.peek()) {
        let other_first = matches!((place(left), place(right)), (Some(left), Some(right)) if left < right);
        merged.extend(if other_first { others.next() } else { named.next() });
    }
    merged.extend(named);
    merged.extend(others);
    merged
}
