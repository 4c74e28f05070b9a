//! An object in the cache: the bytes that clients get, and what selectors ask of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};
use weft_api::{
    convert,
    registry::Resource,
    selector::{FieldSelector, LabelSelector},
};
use weft_store::Entry;

use super::codec;

/// `bytes` is canonical; the rest is derived from it.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: Arc<str>,
    pub(crate) bytes: Bytes,
    labels: BTreeMap<String, String>,
    /// The fields that can be selected by, read when the first selector asks: most objects are never asked.
    fields: OnceLock<Value>,
}

/// Which objects are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

#[derive(Deserialize, Default)]
struct Indexed {
    #[serde(default)]
    metadata: IndexedMetadata,
}

#[derive(Deserialize, Default)]
struct IndexedMetadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

// === impl Object ===

impl Object {
    pub(crate) fn new(entry: &Entry) -> Self {
        let indexed: Indexed = serde_json::from_slice(&entry.value).unwrap_or_default();
        Self {
            key: entry.key.clone(),
            bytes: entry.value.clone(),
            labels: indexed.metadata.labels.unwrap_or_default(),
            fields: OnceLock::new(),
        }
    }

    /// The stored form.
    pub(crate) fn value(&self) -> Value {
        codec::decode(&self.bytes)
    }

    fn fields(&self) -> &Value {
        self.fields.get_or_init(|| selectable(self.value()))
    }
}

// === impl Filter ===

impl Filter {
    pub(crate) fn selects(&self, resource: &Resource, object: &Object) -> bool {
        if !self.labels.matches(&object.labels) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        if resource.storage == "events" && !resource.group.is_empty() {
            // The other form of events has other names for the same fields.
            let mut fields = object.fields().clone();
            convert::from_storage(resource, &mut fields);
            return self.fields.matches(resource, &fields);
        }
        self.fields.matches(resource, object.fields())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.labels == LabelSelector::default()
    }
}

/// Name, namespace, and what is neither list nor object on the first two levels: every selectable field is one of these.
fn selectable(object: Value) -> Value {
    let Value::Object(object) = object else { return Value::Null };
    let mut kept = Map::new();
    for (field, value) in object {
        match value {
            Value::Object(inner) if !matches!(field.as_str(), "data" | "binaryData" | "stringData") => {
                let metadata = field == "metadata";
                let inner = inner.into_iter().filter(|(name, value)| {
                    !value.is_object()
                        && !value.is_array()
                        && (!metadata || name == "name" || name == "namespace")
                });
                kept.insert(field, Value::Object(inner.collect()));
            }
            Value::Object(_) | Value::Array(_) => {}
            scalar => drop(kept.insert(field, scalar)),
        }
    }
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_api::registry;

    use super::*;

    #[test]
    fn selectors_see_labels_and_fields() {
        let pods = registry::find("", "v1", "pods").unwrap();
        let object = json!({
            "metadata": {"name": "a", "namespace": "b", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running"},
        });
        let value = Bytes::from(object.to_string());
        let object = Object::new(&Entry { key: "/registry/pods/b/a".into(), value, revision: 5, created: 5 });
        let filter = |labels: &str, fields: &str| Filter {
            labels: LabelSelector::parse(labels).unwrap(),
            fields: FieldSelector::parse(fields).unwrap(),
        };
        assert!(
            filter("app=web", "spec.nodeName=n,status.phase!=Failed,metadata.name=a").selects(pods, &object)
        );
        assert!(!filter("app=api", "").selects(pods, &object));
        assert!(!filter("", "spec.nodeName=m").selects(pods, &object));
        assert!(filter("", "").is_empty() && !filter("a", "").is_empty());
    }
}
