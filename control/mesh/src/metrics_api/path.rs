//! What a request to the metrics APIs asks for.

use percent_encoding::percent_decode_str;
use weft_api::{status::Status, validate};

/// A parsed request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nodes,
    Node(String),
    /// Of one namespace, or of all.
    Pods(Option<String>),
    Pod {
        namespace: String,
        name: String,
    },
    Custom {
        version: CustomVersion,
        namespace: String,
        kind: Kind,
        name: Named,
        metric: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CustomVersion {
    V1Beta1,
    V1Beta2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pod,
    Service,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    All,
    One(String),
}

/// The selectors of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selectors {
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
}

// === impl Asked ===

impl Asked {
    /// Reads a path such as `/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web-1`.
    pub(super) fn parse(path: &str) -> Result<Self, Status> {
        let segments: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(decode)
            .collect::<Option<_>>()
            .ok_or_else(Status::no_such_path)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let asked = match segments.as_slice() {
            ["apis", "metrics.k8s.io", "v1beta1", rest @ ..] => match rest {
                ["nodes"] => Self::Nodes,
                ["nodes", name] => Self::Node(object_name(name)?),
                ["pods"] => Self::Pods(None),
                ["namespaces", namespace, "pods"] => Self::Pods(Some(object_name(namespace)?)),
                ["namespaces", namespace, "pods", name] => {
                    Self::Pod { namespace: object_name(namespace)?, name: object_name(name)? }
                }
                _ => return Err(Status::no_such_path()),
            },
            ["apis", "custom.metrics.k8s.io", version, "namespaces", namespace, kind, name, metric] => {
                Self::Custom {
                    version: match *version {
                        "v1beta1" => CustomVersion::V1Beta1,
                        "v1beta2" => CustomVersion::V1Beta2,
                        _ => return Err(Status::no_such_path()),
                    },
                    namespace: object_name(namespace)?,
                    kind: match *kind {
                        "pods" => Kind::Pod,
                        "services" => Kind::Service,
                        _ => return Err(Status::no_such_path()),
                    },
                    name: match *name {
                        "*" => Named::All,
                        name => Named::One(object_name(name)?),
                    },
                    metric: (*metric).to_owned(),
                }
            }
            _ => return Err(Status::no_such_path()),
        };
        Ok(asked)
    }
}

/// Only what can be the name of an object: it becomes part of a further request's path.
fn object_name(text: &str) -> Result<String, Status> {
    if validate::is_dns_subdomain(text) { Ok(text.to_owned()) } else { Err(Status::no_such_path()) }
}

// === impl Selectors ===

impl Selectors {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Status> {
        let mut selectors = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(&value.replace('+', " "));
            let value = value.ok_or_else(|| Status::bad_request("the query is not valid UTF-8"))?;
            match key {
                "labelSelector" => selectors.labels = Some(value).filter(|text| !text.is_empty()),
                "fieldSelector" => selectors.fields = Some(value).filter(|text| !text.is_empty()),
                _ => {}
            }
        }
        Ok(selectors)
    }
}

fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_kubernetes_has() {
        let metrics = "/apis/metrics.k8s.io/v1beta1";
        let custom = "/apis/custom.metrics.k8s.io";
        let parse = |path: String| Asked::parse(&path).unwrap();
        assert_eq!(parse(format!("{metrics}/nodes")), Asked::Nodes);
        assert_eq!(parse(format!("{metrics}/nodes/n1")), Asked::Node("n1".into()));
        assert_eq!(parse(format!("{metrics}/pods")), Asked::Pods(None));
        assert_eq!(parse(format!("{metrics}/namespaces/a/pods")), Asked::Pods(Some("a".into())));
        assert_eq!(
            parse(format!("{metrics}/namespaces/a/pods/b")),
            Asked::Pod { namespace: "a".into(), name: "b".into() }
        );
        assert_eq!(
            parse(format!("{custom}/v1beta2/namespaces/a/pods/%2A/weft_in_flight")),
            Asked::Custom {
                version: CustomVersion::V1Beta2,
                namespace: "a".into(),
                kind: Kind::Pod,
                name: Named::All,
                metric: "weft_in_flight".into()
            }
        );
    }

    #[test]
    fn other_paths_are_not_there() {
        for path in [
            "",
            "/apis/metrics.k8s.io/v1beta1/nodes/a/b",
            "/apis/metrics.k8s.io/v1/nodes",
            "/apis/metrics.k8s.io/v1beta1/nodes/..%2f..%2fsecrets",
            "/apis/metrics.k8s.io/v1beta1/nodes/..",
            "/apis/metrics.k8s.io/v1beta1/nodes/%ff",
            "/apis/custom.metrics.k8s.io/v1beta3/namespaces/a/pods/b/c",
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/a/nodes/b/c",
        ] {
            assert_eq!(Asked::parse(path).unwrap_err().code, 404, "{path}");
        }
    }

    #[test]
    fn selectors_are_decoded() {
        let selectors =
            Selectors::parse(Some("limit=500&labelSelector=app%3Dweb%2Ctier+in+%28a%29&fieldSelector="))
                .unwrap();
        assert_eq!(selectors, Selectors { labels: Some("app=web,tier in (a)".into()), fields: None });
        assert!(Selectors::parse(Some("labelSelector=%ff")).is_err());
    }
}
