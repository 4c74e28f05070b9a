//! The form of `apidiscovery.k8s.io`: everything in one answer.

use serde_json::{Value, json};

use super::{Entry, GroupVersion};

/// APIGroupDiscoveryList.
pub(super) fn list<'a>(form: &str, content: impl Iterator<Item = &'a GroupVersion>) -> Value {
    let mut items: Vec<(&str, Vec<Value>)> = Vec::new();
    for gv in content {
        let resources = resources(gv);
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

/// The resources; one that is named like a path belongs to the one that the path begins with.
fn resources(gv: &GroupVersion) -> Vec<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for entry in &gv.entries {
        let Some((parent, name)) = entry.name.split_once('/') else {
            resources.push(resource(gv, entry));
            continue;
        };
        let found = resources.iter().position(|resource| resource["resource"] == parent);
        let position = found.unwrap_or_else(|| {
            // As Kubernetes' aggregator: clients of some releases fail without a kind, even an empty one.
            resources.push(json!({
                "resource": parent, "responseKind": {"group": "", "version": "", "kind": ""},
                "scope": scope(entry), "singularResource": "", "verbs": [], "subresources": [],
            }));
            resources.len() - 1
        });
        let below = json!({
            "subresource": name,
            "responseKind": {"group": gv.group, "version": gv.version, "kind": entry.kind},
            "verbs": entry.verbs,
        });
        match resources[position]["subresources"].as_array_mut() {
            Some(list) => list.push(below),
            None => resources[position]["subresources"] = json!([below]),
        }
    }
    resources
}

fn scope(entry: &Entry) -> &'static str {
    if entry.namespaced { "Namespaced" } else { "Cluster" }
}

fn resource(gv: &GroupVersion, entry: &Entry) -> Value {
    let mut resource = json!({
        "resource": entry.name,
        "responseKind": {"group": gv.group, "version": gv.version, "kind": entry.kind},
        "scope": scope(entry),
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
