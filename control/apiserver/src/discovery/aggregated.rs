//! The form of `apidiscovery.k8s.io`: everything in one answer.

use serde_json::{Value, json};

use super::{Entry, GroupVersion};

/// APIGroupDiscoveryList.
pub(super) fn list<'a>(form: &str, content: impl Iterator<Item = &'a GroupVersion>) -> Value {
    let mut items: Vec<(&str, Vec<Value>)> = Vec::new();
    for gv in content {
        let resources: Vec<Value> = gv.entries.iter().map(|entry| resource(gv, entry)).collect();
        let version = json!({"version": gv.version, "resources": resources, "freshness": "Current"});
        match items.iter_mut().find(|(group, _)| *group == gv.group) {
            Some((_, versions)) => versions.push(version),
            None => items.push((&gv.group, vec![version])),
        }
    }
    let items: Vec<Value> = items
        .into_iter()
        .map(|(group, versions)| {
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {},
        "items": items,
    })
}

fn resource(gv: &GroupVersion, entry: &Entry) -> Value {
    let mut resource = json!({
        "resource": entry.name,
        "responseKind": {"group": gv.group, "version": gv.version, "kind": entry.kind},
        "scope": if entry.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": entry.singular,
        "verbs": entry.verbs,
    });
    if !entry.short_names.is_empty() {
        resource["shortNames"] = json!(entry.short_names);
    }
    if !entry.categories.is_empty() {
        resource["categories"] = json!(entry.categories);
    }
    if !entry.subresources.is_empty() {
        let subresources: Vec<Value> = entry
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
                    "verbs": sub.verbs,
                })
            })
            .collect();
        resource["subresources"] = json!(subresources);
    }
    resource
}
