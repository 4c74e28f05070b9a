//! Merging lists for a strategic merge patch. Patch and object come from outside and may be long, so nothing here compares
//! every item with every other.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use super::strategic::{PATCH, merge_object, without_directives};
use crate::fields::{Field, Kind, Message};

/// Merges a list whose field says that it merges.
pub(super) fn merge_list(
    old: Vec<Value>,
    new: &[Value],
    order: Option<&[Value]>,
    field: Option<&'static Field>,
) -> Result<Vec<Value>, PatchError> {
    let merged = match (merge_key(field), field.map(|f| f.kind)) {
        (Some(key), Some(Kind::Message(_))) => merge_named(&old, new, key, field.and_then(Field::message))?,
        _ => merge_texts(&old, new),
    };
    Ok(ordered(merged, &old, order, field))
}

/// Brings the items that `order` names into its order; the others keep their places relative to the list as it was before.
pub(super) fn ordered(
    items: Vec<Value>,
    before: &[Value],
    order: Option<&[Value]>,
    field: Option<&'static Field>,
) -> Vec<Value> {
    let Some(order) = order else { return items };
    let key = merge_key(field);
    let identity = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or_default(),
        None => item.clone(),
    };
    let places = |list: &[Value]| -> HashMap<Value, usize> {
        // Reversed, so that of equal items the first place wins.
        list.iter().enumerate().rev().map(|(place, item)| (identity(item), place)).collect()
    };
    let (wanted, was) = (places(order), places(before));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| wanted.contains_key(&identity(item)));
    named.sort_by_key(|item| wanted.get(&identity(item)).copied());
    let mut merged = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(left), Some(right)) = (others.peek(), named.peek()) {
        let places = (was.get(&identity(left)), was.get(&identity(right)));
        let other_first = matches!(places, (Some(left), Some(right)) if left < right);
        merged.extend(if other_first { others.next() } else { named.next() });
    }
    merged.extend(named);
    merged.extend(others);
    merged
}

fn merge_key(field: Option<&'static Field>) -> Option<&'static str> {
    field.and_then(|f| f.merge_key)
}

/// A list of texts is a set.
fn merge_texts(old: &[Value], new: &[Value]) -> Vec<Value> {
    let mut present: HashSet<&Value> = old.iter().collect();
    let added = new.iter().filter(|item| present.insert(item));
    old.iter().chain(added).cloned().collect()
}

fn merge_named(
    old: &[Value],
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
    if objects.iter().any(|item| directive(item) == Some("replace")) {
        let kept = objects.iter().filter(|item| directive(item).is_none());
        return Ok(kept.map(|item| Value::Object(without_directives(item))).collect());
    }
    let mut items: Vec<Option<Value>> = old.iter().cloned().map(Some).collect();
    // Several items can share a merge key, as ports of two protocols do: the first is merged, all are deleted.
    let mut places: HashMap<Value, Vec<usize>> = HashMap::new();
    for (place, item) in old.iter().enumerate() {
        if let Some(name) = item.get(key) {
            places.entry(name.clone()).or_default().push(place);
        }
    }
    for item in objects {
        let name = item.get(key).ok_or_else(|| {
            let item = Value::Object(item.clone());
            PatchError::Malformed(format!("map: {item} does not contain declared merge key: {key}"))
        })?;
        match directive(item) {
            Some("delete") => {
                for place in places.remove(name).unwrap_or_default() {
                    items[place] = None;
                }
            }
            None | Some("merge") => {
                let place = places.get(name).and_then(|places| places.first().copied());
                match place.and_then(|place| items.get_mut(place)?.as_mut()) {
                    Some(old) => {
                        let fields = old.as_object_mut().map(std::mem::take).unwrap_or_default();
                        *old = Value::Object(merge_object(fields, item, schema)?);
                    }
                    None => {
                        places.insert(name.clone(), vec![items.len()]);
                        items.push(Some(Value::Object(merge_object(Map::new(), item, schema)?)));
                    }
                }
            }
            Some(other) => return Err(PatchError::Malformed(format!("unknown patch type found: {other}"))),
        }
    }
    Ok(items.into_iter().flatten().collect())
}

fn directive(item: &Map<String, Value>) -> Option<&str> {
    item.get(PATCH).and_then(Value::as_str)
}
