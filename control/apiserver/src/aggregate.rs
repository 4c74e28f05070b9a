//! API groups that another part of the process answers.

use std::convert::Infallible;

use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use crate::{auth::Identity, wire::body::Body};

/// Answers every request below a group version. It sees who asks in the headers `X-Remote-User` and `X-Remote-Group`, as
/// Kubernetes' aggregated servers do, and is asked only for what the caller may do.
pub type AggregatedService = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A resource of an aggregated group, as discovery shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregatedResource {
    /// Name in URLs. One like `pods/requests_per_second` is found below the objects of `pods`.
    pub name: String,
    /// Name for one object.
    pub singular: String,
    /// Kind of the objects.
    pub kind: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Aggregation {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resources: Vec<AggregatedResource>,
    pub(crate) service: AggregatedService,
}

const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");

impl AggregatedResource {
    /// Whether paths with this resource in them are about it.
    pub(crate) fn is_at(&self, resource: &str) -> bool {
        self.name.split('/').next() == Some(resource)
    }
}

impl Aggregation {
    pub(crate) fn answer(
        &self,
        mut request: Request<Body>,
        identity: &Identity,
    ) -> BoxFuture<'static, Response<Body>> {
        tell_identity(request.headers_mut(), identity);
        let answer = self.service.clone().oneshot(request);
        answer
            .map(|answer| match answer {
                Ok(response) => response,
                Err(never) => match never {},
            })
            .boxed()
    }
}

/// Whatever the client says in these headers is a lie.
fn tell_identity(headers: &mut HeaderMap, identity: &Identity) {
    let forged: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    if let Ok(user) = HeaderValue::from_str(&identity.user) {
        headers.insert(REMOTE_USER, user);
    }
    for group in &identity.groups {
        if let Ok(group) = HeaderValue::from_str(group) {
            headers.append(REMOTE_GROUP, group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_say_who_they_are() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("root"));
        headers.insert("x-remote-extra-x", HeaderValue::from_static("y"));
        tell_identity(&mut headers, &Identity::known("alice", ["dev"]));
        assert_eq!(headers["x-remote-user"], "alice");
        assert_eq!(headers.get_all("x-remote-group").iter().count(), 2);
        assert!(!headers.contains_key("x-remote-extra-x"));
    }
}
