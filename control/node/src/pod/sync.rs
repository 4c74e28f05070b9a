//! One look at a pod that is to run.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use tokio::time::Instant;

use super::{
    containers::Round,
    status, volumes,
    worker::{SyncError, Worker},
};
use crate::{
    agent::events::Severity,
    runtime::{Container, Role, Sandbox},
};

/// How long containers of a pod that failed as a whole get to stop.
const FAILED_GRACE: Duration = Duration::from_secs(30);

impl Worker {
    /// Does what is missing and reports. Every step sees what exists and may be repeated.
    pub(super) async fn sync(&mut self, pod: &Arc<Pod>) -> Result<(), SyncError> {
        let runtime = self.ctx.runtime.clone();
        if status::is_over(pod) {
            return self.rest(pod).await;
        }
        if let Some(what) = unsupported(pod) {
            return self.refuse(pod, what).await;
        }
        let sandbox = self.ensure_network(pod).await?;
        self.announce(pod, &sandbox).await?;
        let records = runtime.containers(&self.pod.uid).await?;
        if self.deadline_passed(pod) {
            return self.fail(pod, &records).await;
        }
        let fresh = !records.iter().any(|container| container.role != Role::Sidecar);
        if fresh && self.reported.is_none() {
            // Where the pod is and what it waits for, before the parts that take long.
            self.report(pod, Some(&sandbox), &records, false).await?;
        }
        let sidecar_ready = self.ensure_sidecar(pod, &sandbox, &records, fresh).await?;
        if sidecar_ready || !fresh {
            let mut round = Round::new(pod.clone(), sandbox.clone(), records);
            if self.ensure_init(&mut round).await? {
                self.ensure_apps(&mut round).await?;
            }
            if round.prepared.is_none() {
                self.refresh_volumes(pod, &sandbox).await?;
            }
        }
        let records = runtime.containers(&self.pod.uid).await?;
        self.tend_probes(pod, &sandbox, &records);
        self.report(pod, Some(&sandbox), &records, sidecar_ready).await?;
        if self.is_over_now() {
            self.rest(pod).await?;
        }
        Ok(())
    }

    /// Brings the files of ConfigMaps, Secrets and the like up to date; containers that run see the change.
    async fn refresh_volumes(&mut self, pod: &Pod, sandbox: &Sandbox) -> Result<(), SyncError> {
        let any = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.as_ref())
            .is_some_and(|volumes| !volumes.is_empty());
        if !any || self.volumes_at.elapsed() < self.ctx.timing.resync {
            return Ok(());
        }
        self.volumes_at = Instant::now();
        let sources = self.sources(pod).await?;
        let directory = self.ctx.pod_dir(&self.pod.uid).join("volumes");
        volumes::materialise(pod, &self.ctx.facts(sandbox), &sources, &directory)?;
        Ok(())
    }

    /// The pod's work is over: nothing of it may run, but its logs stay until its object goes.
    async fn rest(&mut self, pod: &Pod) -> Result<(), SyncError> {
        self.probers.clear();
        let records = self.ctx.runtime.containers(&self.pod.uid).await?;
        let running: Vec<Container> = records.into_iter().filter(Container::is_running).collect();
        if !running.is_empty() {
            tracing::debug!("the pod's work is over, stopping what is left of it");
            self.stop_all(Some(pod), running, FAILED_GRACE, false).await?;
        }
        Ok(())
    }

    fn is_over_now(&self) -> bool {
        let phase = self.reported.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    fn deadline_passed(&mut self, pod: &Pod) -> bool {
        let Some(seconds) = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds) else {
            return false;
        };
        let started = pod
            .status
            .as_ref()
            .and_then(|status| status.start_time.as_ref())
            .map_or(self.start_time, |time| time.0);
        let deadline =
            started.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        if deadline > Timestamp::now() {
            self.look_again_at(deadline);
            return false;
        }
        true
    }

    async fn fail(&mut self, pod: &Arc<Pod>, records: &[Container]) -> Result<(), SyncError> {
        let message = "Pod was active on the node longer than the specified deadline";
        self.failure = Some(("DeadlineExceeded", message.into()));
        if self.first_time("deadline") {
            self.ctx.events.pod(pod, None, Severity::Normal, "DeadlineExceeded", message);
        }
        self.probers.clear();
        let running = records.iter().filter(|container| container.is_running()).cloned().collect();
        self.stop_all(Some(pod), running, FAILED_GRACE, false).await?;
        let records = self.ctx.runtime.containers(&self.pod.uid).await?;
        self.report(pod, None, &records, true).await
    }

    /// The pod asks for something that we do not have. It stays pending and says why: a failed pod would be
    /// replaced at once by its controller, for the same fate, without end.
    async fn refuse(&mut self, pod: &Arc<Pod>, what: String) -> Result<(), SyncError> {
        let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
        for Spec { name, .. } in containers {
            self.wait_for_good(Role::App, name, "CreateContainerConfigError", what.clone());
        }
        if self.first_time("unsupported") {
            self.ctx.events.pod(pod, None, Severity::Warning, "Failed", what);
        }
        self.report(pod, None, &[], true).await
    }
}

/// What the agent cannot give to any pod, whatever the runtime.
fn unsupported(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let says = |what: &str| Some(format!("{what} is not supported by this node agent"));
    if spec.host_network == Some(true) {
        return says("spec.hostNetwork");
    }
    if spec.host_pid == Some(true) {
        return says("spec.hostPID");
    }
    if spec.host_ipc == Some(true) {
        return says("spec.hostIPC");
    }
    if spec.share_process_namespace == Some(true) {
        return says("spec.shareProcessNamespace");
    }
    if spec.init_containers.iter().flatten().any(|container| container.restart_policy.is_some()) {
        return says("restartPolicy of an init container");
    }
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if containers()
        .any(|container| container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()))
    {
        return says("volumeDevices");
    }
    if containers().any(|container| container.tty == Some(true) || container.stdin == Some(true)) {
        return says("an interactive container (tty, stdin)");
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(spec: serde_json::Value) -> Option<String> {
        unsupported(&serde_json::from_value(json!({ "spec": spec })).expect("a pod"))
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let containers = json!([{"name": "c"}]);
        assert_eq!(refused(json!({"containers": containers})), None);
        assert_eq!(refused(json!({"containers": containers, "hostNetwork": false})), None);
        let text = refused(json!({"containers": containers, "hostNetwork": true})).expect("refused");
        assert!(text.contains("hostNetwork"));
        let native_sidecar = json!([{"name": "i", "restartPolicy": "Always"}]);
        assert!(refused(json!({"containers": containers, "initContainers": native_sidecar})).is_some());
    }
}
