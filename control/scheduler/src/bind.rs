//! Telling the API server where a pod goes.

use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status},
};
use kube::{Api, Client, api::PostParams};

use crate::pod::PodInfo;

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// The pod is gone, is another one by now, or has a node: whoever changed it was right.
    #[error("the pod changed meanwhile")]
    Superseded(#[source] kube::Error),
    /// Trying again may help.
    #[error("the API server did not accept the binding")]
    Failed(#[source] kube::Error),
}

/// Binds `pod` to `node`. The UID keeps a pod of the same name that came later from being bound by mistake.
pub(crate) async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), BindError> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.name.to_string()),
            namespace: Some(pod.key.namespace.to_string()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..Default::default()
        },
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.key.namespace);
    let bound: kube::Result<Status> =
        pods.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await;
    bound.map(drop).map_err(|error| match &error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => BindError::Superseded(error),
        _ => BindError::Failed(error),
    })
}
