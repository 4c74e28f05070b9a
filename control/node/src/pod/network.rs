//! A pod's network and the annotation that tells the mesh about it.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use weft_api::mesh::{SIDECAR_ADDRESS, TrafficMode};

use super::worker::{SyncError, Worker};
use crate::{
    agent::events::Severity,
    runtime::{Container, Sandbox},
};

impl Worker {
    /// The pod's network. If it was lost, what runs in it is ended first: it can reach nobody and nobody it.
    pub(super) async fn ensure_network(&mut self, pod: &Pod) -> Result<Sandbox, SyncError> {
        let runtime = self.ctx.runtime.clone();
        if let Some(sandbox) = runtime.sandbox(&self.pod).await? {
            return Ok(sandbox);
        }
        let orphans: Vec<Container> = runtime.containers(&self.pod.uid).await?;
        let running: Vec<&Container> = orphans.iter().filter(|container| container.is_running()).collect();
        if !running.is_empty() {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.ctx.events.pod(pod, None, Severity::Normal, "SandboxChanged", text);
        }
        for container in running {
            runtime.kill(container).await?;
        }
        self.annotated = false;
        Ok(runtime.ensure_sandbox(&self.pod, crate::sidecar::wanted(pod)).await?)
    }

    /// Lets the mesh know where the pod's sidecar accepts what is meant for the pod.
    pub(super) async fn announce(&mut self, pod: &Pod, sandbox: &Sandbox) -> Result<(), SyncError> {
        if self.annotated
            || self.ctx.runtime.traffic() == TrafficMode::Redirect
            || !crate::sidecar::wanted(pod)
        {
            return Ok(());
        }
        let address = sandbox.sidecar_ip.to_string();
        let annotations = pod.metadata.annotations.as_ref();
        if annotations.and_then(|annotations| annotations.get(SIDECAR_ADDRESS)) != Some(&address) {
            let patch = json!({"metadata": {"uid": self.pod.uid.as_str(), "annotations": {SIDECAR_ADDRESS: address}}});
            self.ctx
                .api(&self.pod.namespace)
                .patch_status(&self.pod.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .map_err(|source| SyncError::Api { action: "annotate", source })?;
        }
        self.annotated = true;
        Ok(())
    }
}
