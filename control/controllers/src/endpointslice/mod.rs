//! Writes down which pods serve a Service.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};

use crate::{
    cache::{Cache, Change},
    error::{During as _, ReconcileError, is_already_exists, is_namespace_terminating, unless_gone},
    events::Recorder,
    key::{Key, name, namespace},
    pods,
    queue::WorkQueue,
};

mod desired;
mod plan;

use plan::Write;

const ZONE: &str = "topology.kubernetes.io/zone";

/// See the [module](self).
pub(crate) struct EndpointSlices {
    pub(crate) client: Client,
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) nodes: Cache<Node>,
    pub(crate) events: Recorder,
}

// === impl EndpointSlices ===

impl EndpointSlices {
    /// Brings the slices of a Service up to date. Those of a deleted Service go with it, as dependents.
    pub(crate) async fn reconcile(&self, key: Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(service) = self.services.get(&key) else { return Ok(None) };
        if service.metadata.deletion_timestamp.is_some() || !desired::is_managed(&service) {
            return Ok(None);
        }
        let pods: Vec<_> =
            self.pods.in_namespace(&key.namespace).into_iter().filter(|pod| selects(&service, pod)).collect();
        let desired = desired::desired(&service, pods.iter().map(|pod| &**pod), |node| self.zone(node));
        let is_own = |slice: &EndpointSlice| plan::is_ours(slice) && service_name(slice) == Some(&*key.name);
        let existing: Vec<_> =
            self.slices.in_namespace(&key.namespace).into_iter().filter(|slice| is_own(slice)).collect();
        for write in plan::plan(&service, existing, desired) {
            if let Err(error) = self.write(&key, write).await {
                if !error.is_stale() {
                    let text = weft_kit::error::chain(&error);
                    let message = format!("Error updating Endpoint Slices for Service {key}: {text}");
                    self.events.warning(&*service, "FailedToUpdateEndpointSlices", message);
                }
                return Err(error);
            }
        }
        Ok(None)
    }

    async fn write(&self, key: &Key, write: Write) -> Result<(), ReconcileError> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        match write {
            Write::Create(slice) => match api.create(&PostParams::default(), &slice).await {
                Ok(_) => Ok(()),
                Err(error) if is_namespace_terminating(&error) => Ok(()),
                Err(error) if is_already_exists(&error) => Err(ReconcileError::Stale(format!(
                    "slice {} is not in the cache yet",
                    name(&slice.metadata)
                ))),
                Err(error) => Err(error).during(|| format!("create slice {}", name(&slice.metadata))),
            },
            Write::Replace(slice) => {
                let written = api.replace(name(&slice.metadata), &PostParams::default(), &slice).await;
                written.map(drop).during(|| format!("write slice {}", name(&slice.metadata)))
            }
            Write::Delete(slice) => {
                let preconditions = Preconditions { uid: slice.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams::background().preconditions(preconditions);
                let deleted = api.delete(name(&slice.metadata), &params).await;
                unless_gone(deleted).during(|| format!("delete slice {}", name(&slice.metadata)))
            }
        }
    }

    fn zone(&self, node: &str) -> Option<String> {
        self.nodes.get(&Key::new("", node))?.metadata.labels.as_ref()?.get(ZONE).cloned()
    }
}

/// Adds the Services whose endpoints a change of a pod concerns; a change that no endpoint shows concerns none.
pub(crate) fn on_pod(change: &Change<'_, Pod>, services: &Cache<Service>, queue: &WorkQueue<Key>) {
    if let Change::Updated { old, new } = change
        && shown(old) == shown(new)
        && old.metadata.labels == new.metadata.labels
    {
        return;
    }
    for service in services.in_namespace(namespace(&change.latest().metadata)) {
        if desired::is_managed(&service) && change.versions().any(|pod| selects(&service, pod)) {
            queue.add(Key::of(&service.metadata));
        }
    }
}

/// Adds the Service of a slice, unless the change is its own write: that one it knows, but then it does no harm to look.
pub(crate) fn on_slice(change: &Change<'_, EndpointSlice>, queue: &WorkQueue<Key>) {
    for slice in change.versions().filter(|slice| plan::is_ours(slice)) {
        if let Some(service) = service_name(slice) {
            queue.add(Key::new(namespace(&slice.metadata), service));
        }
    }
}

/// Everything of a pod that shows in an endpoint.
fn shown(pod: &Arc<Pod>) -> impl PartialEq + use<'_> {
    let status = pod.status.as_ref();
    (
        pods::is_ready(pod),
        pods::is_terminal(pod),
        pods::is_terminating(pod),
        pods::node(pod),
        status.and_then(|status| status.pod_ip.as_deref()),
        status.and_then(|status| status.pod_ips.as_deref()),
    )
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    selector.is_some_and(|selector| {
        selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    })
}

fn service_name(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(plan::SERVICE_NAME).map(String::as_str)
}
