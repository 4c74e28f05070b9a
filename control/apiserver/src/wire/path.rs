//! What a path asks for.

use percent_encoding::percent_decode_str;
use weft_api::status::Status;

/// A path, taken apart. Each text is decoded and is exactly one segment: it holds no slash, and is neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Something below `/api` or `/apis/GROUP`.
    Resource(ResourcePath),
    /// `/api`, or `/api/VERSION`.
    CoreDiscovery { version: Option<String> },
    /// `/apis`, `/apis/GROUP` or `/apis/GROUP/VERSION`.
    GroupDiscovery { group: Option<String>, version: Option<String> },
    /// Anything else, as it stands.
    Other(String),
}

/// The path of a collection, an object or something below an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ResourcePath {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// What follows the sub-resource, with slashes, decoded segment by segment and encoded anew.
    pub(crate) rest: Option<String>,
}

pub(crate) fn parse(path: &str) -> Result<Target, Status> {
    let mut segments = Vec::new();
    for segment in path.split('/').skip(1) {
        segments.push(decode(segment)?);
    }
    // A slash at the end makes no difference, except below a sub-resource.
    if segments.last().is_some_and(String::is_empty) {
        segments.pop();
    }
    let texts: Vec<&str> = segments.iter().map(String::as_str).collect();
    Ok(match texts.as_slice() {
        ["api"] => Target::CoreDiscovery { version: None },
        ["api", version] => Target::CoreDiscovery { version: Some((*version).to_owned()) },
        ["api", version, rest @ ..] => resource("", version, rest, path.ends_with('/'))?,
        ["apis"] => Target::GroupDiscovery { group: None, version: None },
        ["apis", group] => Target::GroupDiscovery { group: Some((*group).to_owned()), version: None },
        ["apis", group, version] => {
            Target::GroupDiscovery { group: Some((*group).to_owned()), version: Some((*version).to_owned()) }
        }
        ["apis", group, version, rest @ ..] => resource(group, version, rest, path.ends_with('/'))?,
        _ => Target::Other(path.to_owned()),
    })
}

fn resource(group: &str, version: &str, segments: &[&str], slash: bool) -> Result<Target, Status> {
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(Status::no_such_path());
    }
    let (namespace, segments) = match segments {
        // The sub-resources of a namespace itself look like resources within it.
        ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, segments),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        _ => (None, segments),
    };
    let text = |index: usize| segments.get(index).map(|segment| (*segment).to_owned());
    let rest = segments.get(3..).filter(|rest| !rest.is_empty()).map(|rest| {
        let mut rest = rest.iter().map(|segment| encode(segment)).collect::<Vec<_>>().join("/");
        if slash {
            rest.push('/');
        }
        rest
    });
    Ok(Target::Resource(ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        resource: text(0).unwrap_or_default(),
        name: text(1),
        subresource: text(2),
        rest,
    }))
}

/// Names become parts of store keys and of other servers' paths, so nothing that could climb out of its segment passes.
fn decode(segment: &str) -> Result<String, Status> {
    let refused = || Status::bad_request(format!("the path segment {segment:?} is not valid"));
    let text = percent_decode_str(segment).decode_utf8().map_err(|_| refused())?;
    if text == "." || text == ".." || text.contains(['/', '\\']) || text.chars().any(char::is_control) {
        return Err(refused());
    }
    Ok(text.into_owned())
}

fn encode(segment: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    percent_encoding::utf8_percent_encode(segment, KEEP).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource_path(path: &str) -> ResourcePath {
        match parse(path).unwrap() {
            Target::Resource(path) => path,
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn finds_namespace_name_and_subresource() {
        let path = resource_path("/apis/apps/v1/namespaces/default/deployments/web/scale");
        assert_eq!((path.group.as_str(), path.version.as_str()), ("apps", "v1"));
        assert_eq!(path.namespace.as_deref(), Some("default"));
        assert_eq!(path.resource, "deployments");
        assert_eq!((path.name.as_deref(), path.subresource.as_deref()), (Some("web"), Some("scale")));
        let path = resource_path("/api/v1/pods");
        assert_eq!((path.namespace, path.resource.as_str(), path.name), (None, "pods", None));
    }

    #[test]
    fn a_namespace_is_an_object_as_well_as_a_place() {
        let path = resource_path("/api/v1/namespaces/a");
        assert_eq!(
            (path.namespace, path.resource.as_str(), path.name.as_deref()),
            (None, "namespaces", Some("a"))
        );
        let path = resource_path("/api/v1/namespaces/a/finalize");
        assert_eq!((path.resource.as_str(), path.subresource.as_deref()), ("namespaces", Some("finalize")));
        let path = resource_path("/api/v1/namespaces/a/pods");
        assert_eq!((path.namespace.as_deref(), path.resource.as_str()), (Some("a"), "pods"));
    }

    #[test]
    fn what_follows_a_subresource_is_kept_segment_by_segment() {
        let path = resource_path("/api/v1/nodes/n/proxy/metrics/a%20b");
        assert_eq!(path.rest.as_deref(), Some("metrics/a%20b"));
        assert_eq!(resource_path("/api/v1/nodes/n/proxy/").rest, None);
    }

    #[test]
    fn nothing_climbs_out_of_its_segment() {
        for path in [
            "/api/v1/nodes/n/proxy/../../secrets",
            "/api/v1/nodes/n/proxy/%2e%2e/x",
            "/api/v1/namespaces/a%2Fb/pods",
            "/api/v1/pods/a%00",
            "/api/v1/pods/%ff",
            "/api/v1/pods/a%5cb",
        ] {
            assert_eq!(parse(path).unwrap_err().code, 400, "{path}");
        }
        assert_eq!(parse("/api/v1//pods").unwrap_err().code, 404);
    }

    #[test]
    fn everything_else_is_left_as_it_is() {
        assert_eq!(parse("/healthz").unwrap(), Target::Other("/healthz".into()));
        assert_eq!(parse("/").unwrap(), Target::Other("/".into()));
        assert_eq!(parse("/api/").unwrap(), Target::CoreDiscovery { version: None });
    }
}
