//! The kinds that the API server serves, as data: names, scopes, verbs and sub-resources.

/// Verbs of an ordinary stored resource.
const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];
const REVIEW_VERBS: &[&str] = &["create"];

/// One kind in one version, as discovery shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version within the group.
    pub version: &'static str,
    /// Kind of the objects.
    pub kind: &'static str,
    /// Name in URLs.
    pub plural: &'static str,
    /// Name for one object on the command line.
    pub singular: &'static str,
    /// Abbreviations that kubectl accepts.
    pub short_names: &'static [&'static str],
    /// Groups of kinds such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What can be done with the resource itself.
    pub verbs: &'static [&'static str],
    /// What lies below one object.
    pub subresources: &'static [Subresource],
    /// First part of the store key. Two resources with the same value are two views of the same objects, stored in the
    /// form of the one that `storage_of` returns.
    pub storage: &'static str,
    /// Name of the schema definition, as in Kubernetes' OpenAPI documents.
    pub definition: &'static str,
}

/// A path below an object, such as `status`.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last segment of the path.
    pub name: &'static str,
    /// Group of the kind that is exchanged.
    pub group: &'static str,
    /// Version of the kind that is exchanged.
    pub version: &'static str,
    /// Kind that is exchanged.
    pub kind: &'static str,
    /// What can be done with it.
    pub verbs: &'static [&'static str],
}

/// Every stored resource.
pub fn all() -> &'static [Resource] {
    RESOURCES
}

/// The create-only review kinds of the authentication and authorization groups, which are answered and never stored.
pub fn reviews() -> &'static [Resource] {
    REVIEWS
}

/// A stored resource by its place in the URL.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// A review kind by its place in the URL.
pub fn find_review(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    REVIEWS.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// A stored resource by the kind of its objects.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.kind == kind)
}

/// The resource in whose form objects under `storage` are kept.
pub fn storage_of(resource: &Resource) -> &'static Resource {
    RESOURCES
        .iter()
        .find(|r| r.storage == resource.storage)
        .expect("every storage prefix belongs to a resource in the same table")
}

/// Group and version of an `apiVersion` text.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

// === impl Resource ===

impl Resource {
    /// The `apiVersion` of the objects: `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// Kind of a list of the objects.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Name with group as messages show it: `pods`, `deployments.apps`.
    pub fn qualified_plural(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// Kind with group as messages show it: `Pod`, `Deployment.apps`.
    pub fn qualified_kind(&self) -> String {
        qualified(self.kind, self.group)
    }

    /// The sub-resource of this name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the resource itself has this verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether the objects have a `status` that ordinary writes leave alone.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Whether an ordinary update that changes the specification increments `metadata.generation`.
    pub fn has_generation(&self) -> bool {
        matches!(self.plural, "deployments" | "replicasets" | "jobs" | "endpointslices")
    }
}

impl Subresource {
    /// The `apiVersion` of the exchanged kind.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

const fn status(group: &'static str, version: &'static str, kind: &'static str) -> Subresource {
    Subresource { name: "status", group, version, kind, verbs: STATUS_VERBS }
}

const SCALE: Subresource =
    Subresource { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: STATUS_VERBS };

/// The core Event stands before that of events.k8s.io because it is the stored form.
static RESOURCES: &[Resource] = &[
    Resource {
        group: "",
        version: "v1",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        storage: "configmaps",
        definition: "io.k8s.api.core.v1.ConfigMap",
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        storage: "events",
        definition: "io.k8s.api.core.v1.Event",
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        categories: &[],
        namespaced: false,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[
            Subresource { name: "finalize", group: "", version: "v1", kind: "Namespace", verbs: &["update"] },
            status("", "v1", "Namespace"),
        ],
        storage: "namespaces",
        definition: "io.k8s.api.core.v1.Namespace",
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        categories: &[],
        namespaced: false,
        verbs: ALL_VERBS,
        subresources: &[
            Subresource {
                name: "proxy",
                group: "",
                version: "v1",
                kind: "NodeProxyOptions",
                verbs: &["create", "delete", "get", "patch", "update"],
            },
            status("", "v1", "Node"),
        ],
        storage: "minions",
        definition: "io.k8s.api.core.v1.Node",
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[
            Subresource { name: "binding", group: "", version: "v1", kind: "Binding", verbs: &["create"] },
            Subresource {
                name: "eviction",
                group: "policy",
                version: "v1",
                kind: "Eviction",
                verbs: &["create"],
            },
            Subresource { name: "log", group: "", version: "v1", kind: "Pod", verbs: &["get"] },
            status("", "v1", "Pod"),
        ],
        storage: "pods",
        definition: "io.k8s.api.core.v1.Pod",
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        storage: "secrets",
        definition: "io.k8s.api.core.v1.Secret",
    },
    Resource {
        group: "",
        version: "v1",
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[Subresource {
            name: "token",
            group: "authentication.k8s.io",
            version: "v1",
            kind: "TokenRequest",
            verbs: &["create"],
        }],
        storage: "serviceaccounts",
        definition: "io.k8s.api.core.v1.ServiceAccount",
    },
    Resource {
        group: "",
        version: "v1",
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[status("", "v1", "Service")],
        storage: "services/specs",
        definition: "io.k8s.api.core.v1.Service",
    },
    Resource {
        group: "events.k8s.io",
        version: "v1",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        storage: "events",
        definition: "io.k8s.api.events.v1.Event",
    },
    Resource {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[SCALE, status("apps", "v1", "Deployment")],
        storage: "deployments",
        definition: "io.k8s.api.apps.v1.Deployment",
    },
    Resource {
        group: "apps",
        version: "v1",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[SCALE, status("apps", "v1", "ReplicaSet")],
        storage: "replicasets",
        definition: "io.k8s.api.apps.v1.ReplicaSet",
    },
    Resource {
        group: "batch",
        version: "v1",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        short_names: &[],
        categories: &["all"],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[status("batch", "v1", "Job")],
        storage: "jobs",
        definition: "io.k8s.api.batch.v1.Job",
    },
    Resource {
        group: "coordination.k8s.io",
        version: "v1",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        storage: "leases",
        definition: "io.k8s.api.coordination.v1.Lease",
    },
    Resource {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: ALL_VERBS,
        subresources: &[],
        storage: "endpointslices",
        definition: "io.k8s.api.discovery.v1.EndpointSlice",
    },
];

static REVIEWS: &[Resource] = &[
    review(
        "authentication.k8s.io",
        "SelfSubjectReview",
        "selfsubjectreviews",
        "selfsubjectreview",
        "io.k8s.api.authentication.v1.SelfSubjectReview",
    ),
    review(
        "authentication.k8s.io",
        "TokenReview",
        "tokenreviews",
        "tokenreview",
        "io.k8s.api.authentication.v1.TokenReview",
    ),
    review(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    ),
    review(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
    ),
];

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    definition: &'static str,
) -> Resource {
    Resource {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: false,
        verbs: REVIEW_VERBS,
        subresources: &[],
        storage: "",
        definition,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_is_found_by_path_and_by_kind() {
        for resource in all() {
            assert_eq!(find(resource.group, resource.version, resource.plural), Some(resource));
            assert_eq!(by_kind(resource.group, resource.version, resource.kind), Some(resource));
        }
        assert!(find("apps", "v1", "pods").is_none());
    }

    #[test]
    fn both_events_are_stored_in_the_core_form() {
        let newer = find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(storage_of(newer).group, "");
    }

    #[test]
    fn names_carry_the_group_in_messages() {
        let deployment = find("apps", "v1", "deployments").unwrap();
        assert_eq!(deployment.qualified_plural(), "deployments.apps");
        assert_eq!(deployment.qualified_kind(), "Deployment.apps");
        assert_eq!(deployment.api_version(), "apps/v1");
        assert_eq!(split_api_version("apps/v1"), ("apps", "v1"));
        assert_eq!(split_api_version("v1"), ("", "v1"));
    }
}
