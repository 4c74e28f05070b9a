//! The kinds of objects that can be owned and that live in namespaces, as the API server's registry lists them.

use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
};
use weft_api::registry::{self, Resource};

/// An object of any kind, of which only the metadata is read.
pub(crate) type Meta = PartialObjectMeta<DynamicObject>;

/// Every kind that is stored on its own: of two views of the same objects only the one in whose form they are kept.
pub(crate) fn stored() -> impl Iterator<Item = &'static Resource> {
    // By value: where a table lies in memory is up to the compiler, and two crates need not see it at the same place.
    registry::all().iter().filter(|resource| registry::storage_of(resource) == *resource)
}

/// What the client needs to know to address objects of the kind.
pub(crate) fn api_resource(resource: &Resource) -> ApiResource {
    ApiResource {
        group: resource.group.to_owned(),
        version: resource.version.to_owned(),
        api_version: resource.api_version(),
        kind: resource.kind.to_owned(),
        plural: resource.plural.to_owned(),
    }
}

/// Access to the metadata of objects of the kind; `namespace` does not matter for kinds outside of namespaces.
pub(crate) fn api(client: &Client, resource: &Resource, namespace: &str) -> Api<Meta> {
    let kind = api_resource(resource);
    if resource.namespaced && !namespace.is_empty() {
        Api::namespaced_with(client.clone(), namespace, &kind)
    } else {
        Api::all_with(client.clone(), &kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_kind_is_named_once() {
        let names: Vec<String> = stored().map(Resource::qualified_plural).collect();
        for kind in ["configmaps", "pods", "events", "deployments.apps", "jobs.batch"] {
            assert!(names.iter().any(|name| name == kind), "{kind} is not in {names:?}");
        }
        assert!(
            !names.contains(&"events.k8s.io/events".to_owned())
                && !names.contains(&"events.events.k8s.io".to_owned())
        );
    }
}
