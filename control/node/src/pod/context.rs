//! What all workers of a node share.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, runtime::reflector::Store};

use super::{
    env::{self, ServiceView},
    fields::Facts,
};
use crate::{
    agent::events::Recorder,
    config::{AdsAddress, Timing},
    runtime::{PodRef, PodUid, Runtime, Sandbox},
};

/// See the [module](self).
pub(crate) struct PodContext {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) client: kube::Client,
    pub(crate) events: Recorder,
    /// All services of the cluster, for the variables that tell where they are.
    pub(crate) services: Store<Service>,
    pub(crate) node: NodeFacts,
    /// Where pods' files are: `PODS/UID/…`.
    pub(crate) pods_dir: PathBuf,
    /// The mesh control service as proxies of this runtime see it.
    pub(crate) ads: AdsAddress,
    /// Worker threads of a sidecar.
    pub(crate) sidecar_concurrency: u32,
    pub(crate) timing: Timing,
}

/// What workers need to know about the node.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
}

// === impl PodContext ===

impl PodContext {
    pub(super) fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(super) fn facts(&self, sandbox: &Sandbox) -> Facts {
        Facts {
            pod_ip: sandbox.pod_ip.into(),
            host_ip: self.node.ip,
            cpu_millis: self.node.cpu_millis,
            memory_bytes: self.node.memory_bytes,
        }
    }

    pub(super) fn pod_dir(&self, uid: &PodUid) -> PathBuf {
        self.pods_dir.join(uid.as_str())
    }

    /// The variables by which a pod finds the services that exist now.
    pub(super) fn service_variables(
        &self,
        pod: &Pod,
        at: &PodRef,
        view: ServiceView,
    ) -> Vec<(String, String)> {
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let mut services = self.services.state();
        // The store has no order of its own, and two runs of one container should not differ for nothing.
        services.sort_by(|a, b| {
            (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name))
        });
        env::service_variables(services.iter().map(Arc::as_ref), &at.namespace, links, view)
    }
}
