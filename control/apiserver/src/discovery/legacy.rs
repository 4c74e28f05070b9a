//! The form that all clients know: one list for each level.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::GroupVersion;

/// APIVersions, of `/api`.
pub(super) fn versions<'a>(core: impl Iterator<Item = &'a GroupVersion>, address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": core.map(|gv| gv.version.as_str()).collect::<Vec<_>>(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// APIGroupList, of `/apis`.
pub(super) fn group_list<'a>(content: impl Iterator<Item = &'a GroupVersion>) -> Value {
    let mut by_group: BTreeMap<&str, Vec<&GroupVersion>> = BTreeMap::new();
    for gv in content {
        by_group.entry(&gv.group).or_default().push(gv);
    }
    let groups: Vec<Value> = by_group
        .into_iter()
        .map(|(name, versions)| {
            let mut group = group(name, versions.into_iter());
            // Within a list they have no kind of their own.
            if let Some(fields) = group.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            group
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// APIGroup, of `/apis/GROUP`.
pub(super) fn group<'a>(name: &str, versions: impl Iterator<Item = &'a GroupVersion>) -> Value {
    let versions: Vec<Value> =
        versions.map(|gv| json!({"groupVersion": gv.text(), "version": gv.version})).collect();
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": versions,
        "preferredVersion": versions.first(),
    })
}

/// APIResourceList, of `/api/VERSION` and `/apis/GROUP/VERSION`.
pub(super) fn resources(content: &GroupVersion) -> Value {
    let mut resources = Vec::new();
    for entry in &content.entries {
        let mut resource = json!({
            "name": entry.name,
            "singularName": entry.singular,
            "namespaced": entry.namespaced,
            "kind": entry.kind,
            "verbs": entry.verbs,
        });
        if !entry.short_names.is_empty() {
            resource["shortNames"] = json!(entry.short_names);
        }
        if !entry.categories.is_empty() {
            resource["categories"] = json!(entry.categories);
        }
        resources.push(resource);
        for subresource in entry.subresources {
            let mut resource = json!({
                "name": format!("{}/{}", entry.name, subresource.name),
                "singularName": "",
                "namespaced": entry.namespaced,
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if (subresource.group, subresource.version) != (content.group.as_str(), content.version.as_str())
            {
                resource["group"] = json!(subresource.group);
                resource["version"] = json!(subresource.version);
            }
            resources.push(resource);
        }
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": content.text(),
        "resources": resources,
    })
}
