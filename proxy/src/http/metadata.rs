//! What filters say about a request, to those after them and to access logs.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Values by the name of who says them and by keys below that. Nothing is allocated for a request about which nobody says
/// anything.
#[derive(Debug, Default)]
pub(crate) struct Metadata(BTreeMap<String, Map<String, Value>>);

// === impl Metadata ===

impl Metadata {
    /// What is said under this name.
    pub(crate) fn of(&self, namespace: &str) -> Option<&Map<String, Value>> {
        self.0.get(namespace)
    }

    /// The value at the end of these keys, or all that is said under the name if there are none.
    pub(crate) fn find<'m>(&'m self, namespace: &str, path: &[String]) -> Option<Found<'m>> {
        let fields = self.of(namespace)?;
        let Some((first, rest)) = path.split_first() else { return Some(Found::All(fields)) };
        let value = rest.iter().try_fold(fields.get(first)?, |value, key| value.as_object()?.get(key))?;
        Some(Found::One(value))
    }

    /// Adds to what is said under this name: as Envoy, objects are merged, lists are appended to, and all else is replaced.
    pub(crate) fn merge(&mut self, namespace: &str, fields: &Map<String, Value>) {
        match self.0.get_mut(namespace) {
            Some(before) => update(before, fields),
            None => {
                self.0.insert(namespace.to_owned(), fields.clone());
            }
        }
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Found<'m> {
    All(&'m Map<String, Value>),
    One(&'m Value),
}

fn update(before: &mut Map<String, Value>, fields: &Map<String, Value>) {
    for (key, value) in fields {
        match (before.get_mut(key), value) {
            (Some(Value::Object(before)), Value::Object(fields)) => update(before, fields),
            (Some(Value::Array(before)), Value::Array(more)) => before.extend(more.iter().cloned()),
            _ => {
                before.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn what_is_said_twice_is_merged_and_found_by_its_path() {
        let mut metadata = Metadata::default();
        assert_eq!(metadata.find("a", &[]), None);
        metadata.merge("a", &object(json!({"x": {"y": 1, "z": [1]}, "w": [1]})));
        metadata.merge("a", &object(json!({"x": {"y": "two", "z": [2]}, "w": {"v": null}})));
        let path = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let found = |keys: &[&str]| match metadata.find("a", &path(keys)) {
            Some(Found::One(value)) => Some(value.clone()),
            _ => None,
        };
        assert_eq!(found(&["x"]), Some(json!({"y": "two", "z": [1, 2]})));
        assert_eq!(found(&["x", "y"]), Some(json!("two")));
        assert_eq!(found(&["w", "v"]), Some(Value::Null));
        assert_eq!(found(&["x", "y", "z"]), None);
        assert_eq!(found(&["none"]), None);
        assert!(matches!(metadata.find("a", &[]), Some(Found::All(fields)) if fields.len() == 2));
        assert_eq!(metadata.of("b"), None);
    }
}
