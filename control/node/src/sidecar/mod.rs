//! The proxy beside each pod: what it is told at its start, and how it is asked to drain.

mod admin;
mod bootstrap;
mod token;

pub(crate) use self::{
    admin::Admin,
    bootstrap::{BootstrapInputs, bootstrap},
    token::{Subject, TokenError, TokenFile},
};

/// Name of the sidecar's container. It is not in the pod's specification.
pub(crate) const CONTAINER: &str = "weft-proxy";
/// Pod annotation: with the value `disabled` the pod gets no sidecar, as with Linkerd's `linkerd.io/inject`.
pub(crate) const INJECT: &str = "weft.dev/inject";

/// Whether a pod gets a sidecar.
pub(crate) fn wanted(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(INJECT)).map(String::as_str) != Some("disabled")
}
