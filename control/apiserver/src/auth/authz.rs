//! What an identity may do.
//!
//! The rules are few and fixed, in the order of [`decide`]; what none of them allows is refused.

use super::{
    identity::{Identity, MASTERS},
    tokens::ADMINISTRATORS,
};

/// Users that Kubernetes gives to the parts of a control plane. Here they may do everything: the controllers act on all
/// kinds, and who can pose as one of them holds a certificate of the cluster's authority.
const CONTROL_USERS: &[&str] = &["system:kube-scheduler", "system:kube-controller-manager", "weft-apiserver"];
/// Group of the further parts of Weft's own control.
const CONTROL_GROUP: &str = "weft:control";
/// May read metrics and nothing else.
const MONITORING: &str = "system:monitoring";

/// Kinds that each user may ask about itself.
const SELF_REVIEWS: &[&str] = &["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];

/// An action, as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    /// On an object or a collection.
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    /// On any other path.
    Path { verb: &'a str, path: &'a str },
}

/// The answer of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// Only if the pod that it is about runs on the caller's node; whoever has the pod at hand checks it.
    OwnPodsOnly,
    /// Only if the new object has the name of the caller's node; whoever has the object at hand checks it.
    OwnNameOnly,
    Denied,
}

/// Whether the identity may do everything, act as others included.
pub(crate) fn is_administrator(identity: &Identity) -> bool {
    identity.is_in(MASTERS) || identity.is_in(ADMINISTRATORS)
}

pub(crate) fn decide(identity: &Identity, action: Action<'_>) -> Decision {
    let allowed = |yes| if yes { Decision::Allowed } else { Decision::Denied };
    if is_administrator(identity)
        || identity.is_in(CONTROL_GROUP)
        || CONTROL_USERS.contains(&identity.user.as_str())
    {
        return Decision::Allowed;
    }
    match action {
        Action::Path { verb, path } => allowed(
            matches!(verb, "get" | "head")
                && (is_public(path)
                    || (!identity.is_anonymous() && path.starts_with("/openapi/"))
                    || (path == "/metrics" && identity.is_in(MONITORING))),
        ),
        Action::Resource { .. } if identity.is_anonymous() => Decision::Denied,
        Action::Resource { verb: "create", resource, .. } if SELF_REVIEWS.contains(&resource) => {
            Decision::Allowed
        }
        Action::Resource { .. } => identity.node().map_or(Decision::Denied, |node| decide_node(node, action)),
    }
}

/// Paths that tell nothing about the cluster's content.
fn is_public(path: &str) -> bool {
    let starts =
        |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    matches!(path, "/" | "/version" | "/version/")
        || ["/healthz", "/livez", "/readyz", "/api", "/apis"].into_iter().any(starts)
}

/// The agent of a node reads what it may need, and writes its own node, pods, lease and events.
fn decide_node(node: &str, action: Action<'_>) -> Decision {
    let Action::Resource { verb, resource, subresource, namespace, name, .. } = action else {
        return Decision::Denied;
    };
    if matches!(verb, "get" | "list" | "watch") && subresource != "proxy" {
        return Decision::Allowed;
    }
    let own = match (resource, verb) {
        ("nodes", "create") => return Decision::OwnNameOnly,
        ("nodes", "update" | "patch") => name == node && matches!(subresource, "" | "status"),
        ("leases", "create") if namespace == "kube-node-lease" => return Decision::OwnNameOnly,
        ("leases", "update" | "patch" | "delete") => namespace == "kube-node-lease" && name == node,
        ("events", "create" | "update" | "patch") => true,
        ("tokenreviews", "create") => true,
        // Bound to itself or to one of its pods; whoever has the request at hand checks it.
        ("serviceaccounts", "create") if subresource == "token" => return Decision::OwnPodsOnly,
        // Of a pod's main part, labels and annotations only; whoever has both states at hand checks it.
        ("pods", "update" | "patch") if matches!(subresource, "" | "status") => return Decision::OwnPodsOnly,
        ("pods", "delete") if subresource.is_empty() => return Decision::OwnPodsOnly,
        _ => false,
    };
    if own { Decision::Allowed } else { Decision::Denied }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource<'a>(verb: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Action<'a> {
        let namespace = if resource == "leases" { "kube-node-lease" } else { "default" };
        Action::Resource { verb, group: "", resource, subresource, namespace, name }
    }

    #[test]
    fn nobody_reads_health_and_discovery_only() {
        let nobody = Identity::anonymous();
        for path in
            ["/healthz", "/livez/ping", "/readyz", "/version", "/api", "/apis", "/apis/apps/v1", "/api/v1"]
        {
            assert_eq!(decide(&nobody, Action::Path { verb: "get", path }), Decision::Allowed, "{path}");
        }
        for path in ["/metrics", "/openapi/v2", "/healthzz", "/logs"] {
            assert_eq!(decide(&nobody, Action::Path { verb: "get", path }), Decision::Denied, "{path}");
        }
        assert_eq!(decide(&nobody, Action::Path { verb: "post", path: "/healthz" }), Decision::Denied);
        assert_eq!(decide(&nobody, resource("list", "pods", "", "")), Decision::Denied);
        assert_eq!(decide(&nobody, resource("create", "selfsubjectreviews", "", "")), Decision::Denied);
    }

    #[test]
    fn a_node_writes_only_what_is_its_own() {
        let node = Identity::known("system:node:a", ["system:nodes"]);
        for (action, expected) in [
            (resource("list", "pods", "", ""), Decision::Allowed),
            (resource("patch", "nodes", "status", "a"), Decision::Allowed),
            (resource("patch", "nodes", "status", "b"), Decision::Denied),
            (resource("delete", "nodes", "", "a"), Decision::Denied),
            (resource("patch", "pods", "status", "p"), Decision::OwnPodsOnly),
            (resource("delete", "pods", "", "p"), Decision::OwnPodsOnly),
            (resource("create", "pods", "", ""), Decision::Denied),
            (resource("update", "leases", "", "a"), Decision::Allowed),
            (resource("update", "leases", "", "b"), Decision::Denied),
            (resource("create", "events", "", ""), Decision::Allowed),
            (resource("create", "nodes", "", ""), Decision::OwnNameOnly),
            (resource("create", "leases", "", ""), Decision::OwnNameOnly),
            (resource("get", "nodes", "proxy", "b"), Decision::Denied),
            (resource("create", "serviceaccounts", "token", "default"), Decision::OwnPodsOnly),
            (resource("create", "serviceaccounts", "", ""), Decision::Denied),
            (resource("update", "deployments", "", "d"), Decision::Denied),
        ] {
            assert_eq!(decide(&node, action), expected, "{action:?}");
        }
        let impostor = Identity::known("system:node:a", ["dev"]);
        assert_eq!(decide(&impostor, resource("list", "pods", "", "")), Decision::Denied);
    }

    #[test]
    fn others_may_only_ask_about_themselves() {
        let user = Identity::known("alice", ["dev"]);
        assert_eq!(decide(&user, resource("create", "selfsubjectreviews", "", "")), Decision::Allowed);
        assert_eq!(decide(&user, resource("get", "pods", "", "x")), Decision::Denied);
        assert_eq!(decide(&user, Action::Path { verb: "get", path: "/openapi/v3" }), Decision::Allowed);
        let admin = Identity::known("root", [MASTERS]);
        assert_eq!(decide(&admin, resource("delete", "nodes", "", "x")), Decision::Allowed);
    }
}
