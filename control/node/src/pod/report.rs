//! Telling the API server how a pod is doing.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{
    containers::reported,
    decide::Latest,
    status::{self, Inputs, View},
    worker::{SyncError, Worker},
};
use crate::{
    runtime::{Container, ContainerState, Role, Sandbox},
    sidecar::wanted,
};

impl Worker {
    /// Reports the pod's status if it differs from what was reported last.
    pub(super) async fn report(
        &mut self,
        pod: &Pod,
        sandbox: Option<&Sandbox>,
        records: &[Container],
        sidecar_ready: bool,
    ) -> Result<(), SyncError> {
        let spec = pod.spec.as_ref();
        let init = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let apps = spec.iter().flat_map(|spec| spec.containers.iter());
        let inputs = Inputs {
            pod,
            before: self.reported.as_ref().or(pod.status.as_ref()),
            now: Timestamp::now(),
            host_ip: self.ctx.node.ip,
            pod_ip: sandbox.map(|sandbox| sandbox.pod_ip.into()),
            start_time: self.start_time,
            init: init.map(|spec| self.view(pod, spec, Role::Init, records)).collect(),
            apps: apps.map(|spec| self.view(pod, spec, Role::App, records)).collect(),
            sidecar_ready: sidecar_ready || !wanted(pod),
            failure: self.failure.clone(),
            stopping: self.stopping_for_good,
        };
        let status = status::compute(&inputs);
        if self.reported.as_ref() == Some(&status) {
            return Ok(());
        }
        let patch = patch(self.pod.uid.as_str(), &status);
        let api = self.ctx.api(&self.pod.namespace);
        match api.patch_status(&self.pod.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {
                self.reported = Some(status);
                Ok(())
            }
            // Gone, or another pod has the name by now; the watch will tell.
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
            Err(source) => Err(SyncError::Api { action: "report the status of", source }),
        }
    }

    fn view(&self, pod: &Pod, spec: &Spec, role: Role, records: &[Container]) -> View {
        let latest = Latest::find(records, &self.pod.uid, role, &spec.name, reported(pod, role, &spec.name));
        let current = latest.map(|latest| latest.container);
        let previous = current.as_ref().and_then(|current| {
            let before = current.attempt.checked_sub(1)?;
            let same = |record: &&Container| {
                record.role == role && record.name == spec.name && record.attempt == before
            };
            records.iter().find(same).cloned()
        });
        let health = current
            .as_ref()
            .filter(|container| container.is_running())
            .and_then(|container| self.probers.get(&container.id))
            .map(super::probe::Prober::health);
        let waiting = self.waiting.get(&(role, spec.name.clone()));
        let running = matches!(&current, Some(Container { state: ContainerState::Running { .. }, .. }));
        View {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            waiting: waiting.filter(|_| !running).map(|waiting| (waiting.reason, waiting.message.clone())),
            started: health.as_ref().is_some_and(|health| health.started),
            ready: health.as_ref().is_some_and(|health| health.ready),
            known_restarts: reported(pod, role, &spec.name).map_or(0, |status| status.restart_count),
            known_last: reported(pod, role, &spec.name)
                .and_then(|status| status.last_state.as_ref()?.terminated.clone()),
            previous,
            current,
        }
    }
}

/// A strategic merge patch: conditions of others stay, ours are replaced whole, emptied fields are removed.
fn patch(uid: &str, status: &PodStatus) -> Value {
    let mut status = json!(status);
    let conditions = status["conditions"].as_array_mut().into_iter().flatten();
    for object in conditions.filter_map(Value::as_object_mut) {
        for field in ["reason", "message"] {
            object.entry(field).or_insert(Value::Null);
        }
    }
    if let Some(object) = status.as_object_mut() {
        for field in ["reason", "message"] {
            object.entry(field).or_insert(Value::Null);
        }
    }
    json!({"metadata": {"uid": uid}, "status": status})
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;

    #[test]
    fn what_is_no_longer_said_is_removed_from_the_object() {
        let condition =
            PodCondition { type_: "Ready".into(), status: "True".into(), ..PodCondition::default() };
        let patch = patch("u", &PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() });
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"]["reason"], Value::Null);
        let condition = patch["status"]["conditions"][0].as_object().expect("an object");
        assert!(condition.get("message").is_some_and(Value::is_null));
    }
}
