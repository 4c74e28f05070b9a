//! A pod's own containers: which of them to start, replace or leave alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as Spec, ContainerStatus, Pod};
use tokio::time::Instant;

use super::{
    backoff::retry_delay,
    decide::{Decision, Latest, decide, restarts},
    probe::{Checker, Failure, Health, Kind, Prober},
    sources::Sources,
    status::RestartPolicy,
    terminate,
    volumes::Volumes,
    worker::{SyncError, Waiting, Worker},
};
use crate::{
    agent::events::Severity,
    runtime::{Container, ContainerState, Role, RuntimeError, Sandbox},
};

/// What one look at the pod works with.
pub(super) struct Round {
    pub(super) pod: Arc<Pod>,
    pub(super) sandbox: Sandbox,
    pub(super) records: Vec<Container>,
    /// Fetched when the first container is to be started, and then used for all.
    pub(super) prepared: Option<Prepared>,
}

/// What containers are started with.
pub(super) struct Prepared {
    pub(super) sources: Sources,
    pub(super) volumes: Volumes,
}

// === impl Round ===

impl Round {
    pub(super) fn new(pod: Arc<Pod>, sandbox: Sandbox, records: Vec<Container>) -> Self {
        Self { pod, sandbox, records, prepared: None }
    }

    fn latest(&self, role: Role, name: &str) -> Option<Latest> {
        Latest::find(&self.records, &self.sandbox.pod.uid, role, name, reported(&self.pod, role, name))
    }
}

/// What the API server was told about a container.
pub(super) fn reported<'a>(pod: &'a Pod, role: Role, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let list = match role {
        Role::Init => &status.init_container_statuses,
        _ => &status.container_statuses,
    };
    list.iter().flatten().find(|status| status.name == name)
}

impl Worker {
    /// Runs the init containers, one after the other. `true`: all have done their work.
    pub(super) async fn ensure_init(&mut self, round: &mut Round) -> Result<bool, SyncError> {
        // Once a container of the pod proper exists they are done for good, even if their records are gone.
        if round.records.iter().any(|container| container.role == Role::App) {
            return Ok(true);
        }
        let pod = round.pod.clone();
        for spec in pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()) {
            if self.ensure_container(round, spec, Role::Init).await? != Decision::Done {
                return Ok(false);
            }
            let succeeded = round
                .latest(Role::Init, &spec.name)
                .is_some_and(|latest| latest.container.exit().is_some_and(|exit| exit.code == 0));
            if !succeeded {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs the containers of the pod proper, side by side.
    pub(super) async fn ensure_apps(&mut self, round: &mut Round) -> Result<(), SyncError> {
        let pod = round.pod.clone();
        for spec in pod.spec.iter().flat_map(|spec| spec.containers.iter()) {
            self.ensure_container(round, spec, Role::App).await?;
        }
        Ok(())
    }

    async fn ensure_container(
        &mut self,
        round: &mut Round,
        spec: &Spec,
        role: Role,
    ) -> Result<Decision, SyncError> {
        let latest = round.latest(role, &spec.name);
        let policy = restarts(RestartPolicy::of(&round.pod), role);
        let image = spec.image.as_deref().unwrap_or("");
        let now = Timestamp::now();
        let decision = decide(&spec.name, image, latest.as_ref(), policy, &mut self.backoff, now);
        let key = (role, spec.name.clone());
        match &decision {
            Decision::Keep | Decision::Done => {
                self.waiting.remove(&key);
            }
            Decision::Replace => {
                if let Some(Latest { container, .. }) = latest {
                    let text = format!("Container {} definition changed, will be restarted", spec.name);
                    self.stop_in_background(round, spec, container, text);
                }
            }
            Decision::Wait { until } => {
                let exit = latest.as_ref().and_then(|latest| latest.container.exit());
                let delay = exit.map_or(Duration::ZERO, |exit| {
                    Duration::try_from(until.duration_since(exit.finished_at)).unwrap_or(Duration::ZERO)
                });
                let pod = &self.pod;
                let message = format!(
                    "back-off {delay:?} restarting failed container={} pod={}_{}({})",
                    spec.name, pod.name, pod.namespace, pod.uid
                );
                if self.waiting.get(&key).is_none_or(|waiting| waiting.message != message) {
                    let text = format!(
                        "Back-off restarting failed container {} in pod {}_{}({})",
                        spec.name, pod.name, pod.namespace, pod.uid
                    );
                    self.ctx.events.pod(&round.pod, Some(&spec.name), Severity::Warning, "BackOff", text);
                }
                let waiting = Waiting { reason: "CrashLoopBackOff", message, failures: 0, retry_at: *until };
                self.waiting.insert(key, waiting);
                self.look_again_at(*until);
            }
            Decision::Start { attempt } => {
                if let Some(waiting) = self.waiting.get(&key)
                    && waiting.failures > 0
                    && waiting.retry_at > now
                {
                    let retry_at = waiting.retry_at;
                    self.look_again_at(retry_at);
                    return Ok(decision);
                }
                self.launch(round, spec, role, *attempt).await?;
                self.forget_old(role, &spec.name, *attempt).await?;
                round.records = self.ctx.runtime.containers(&self.pod.uid).await?;
            }
        }
        Ok(decision)
    }

    /// Notes that a container could not be started, and when to try again.
    pub(super) fn cannot_run(&mut self, role: Role, name: &str, reason: &'static str, message: String) {
        let key = (role, name.to_owned());
        let failures = self.waiting.get(&key).map_or(0, |waiting| waiting.failures) + 1;
        let retry_at = Timestamp::now().checked_add(retry_delay(failures)).unwrap_or(Timestamp::MAX);
        self.waiting.insert(key, Waiting { reason, message, failures, retry_at });
        self.look_again_at(retry_at);
    }

    /// Notes that a container will not run.
    pub(super) fn wait_for_good(&mut self, role: Role, name: &str, reason: &'static str, message: String) {
        let waiting = Waiting { reason, message, failures: 1, retry_at: Timestamp::MAX };
        self.waiting.insert((role, name.to_owned()), waiting);
    }

    /// Removes all instances but the one before `attempt`, whose log `kubectl logs --previous` shows.
    pub(super) async fn forget_old(&self, role: Role, name: &str, attempt: u32) -> Result<(), SyncError> {
        for record in self.ctx.runtime.containers(&self.pod.uid).await? {
            let old = record.attempt + 1 < attempt && !record.is_running();
            if old && record.role == role && record.name == name {
                self.ctx.runtime.remove(&record).await?;
            }
        }
        Ok(())
    }

    /// Starts the probes of containers that have begun to run, ends those of others, and acts on what they say.
    pub(super) fn tend_probes(&mut self, pod: &Arc<Pod>, sandbox: &Sandbox, records: &[Container]) {
        let running: Vec<&Container> = records
            .iter()
            .filter(|container| container.role == Role::App && container.is_running())
            .collect();
        self.probers.retain(|id, _| running.iter().any(|container| container.id == *id));
        self.stopping.retain(|id| running.iter().any(|container| container.id == *id));
        for container in running {
            let Some(spec) = spec_of(pod, &container.name) else { continue };
            if !self.probers.contains_key(&container.id) {
                let prober = self.prober(pod, sandbox, container, spec);
                self.probers.insert(container.id.clone(), prober);
            }
            let failed = self.probers.get(&container.id).and_then(|prober| prober.health().failed);
            if let Some(why) = failed {
                let text = format!("Container {} {why}, will be restarted", container.name);
                let round = Round::new(pod.clone(), sandbox.clone(), Vec::new());
                self.stop_in_background(&round, spec, container.clone(), text);
            }
        }
    }

    fn prober(&self, pod: &Arc<Pod>, sandbox: &Sandbox, container: &Container, spec: &Spec) -> Prober {
        let known = reported(pod, Role::App, &container.name)
            .filter(|status| status.container_id.as_ref() == Some(&container.id))
            .map(|status| Health {
                started: status.started == Some(true),
                ready: status.ready,
                failed: None,
            });
        let ContainerState::Running { started_at } = container.state else {
            unreachable!("only running containers are probed")
        };
        let age = Duration::try_from(Timestamp::now().duration_since(started_at)).unwrap_or(Duration::ZERO);
        let started_at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let (events, pod, name) = (self.ctx.events.clone(), pod.clone(), container.name.clone());
        let on_failure = move |kind: Kind, Failure(text): &Failure| {
            let text = format!("{} probe failed: {text}", kind.name());
            events.pod(&pod, Some(&name), Severity::Warning, "Unhealthy", text);
        };
        let checker = self.checker(sandbox, container, spec);
        Prober::start(spec, checker, started_at, known, self.wake.clone(), Arc::new(on_failure))
    }

    pub(super) fn checker(&self, sandbox: &Sandbox, container: &Container, spec: &Spec) -> Checker {
        let ports: BTreeMap<String, u16> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)))
            .collect();
        Checker {
            runtime: self.ctx.runtime.clone(),
            sandbox: sandbox.clone(),
            container: container.clone(),
            ports,
        }
    }

    /// Stops a container that is to be started again. Its hook and grace period must not keep the others waiting.
    fn stop_in_background(&mut self, round: &Round, spec: &Spec, container: Container, text: String) {
        if !self.stopping.insert(container.id.clone()) {
            return;
        }
        self.ctx.events.pod(&round.pod, Some(&container.name), Severity::Normal, "Killing", text);
        let grace = terminate::grace_of(&round.pod);
        let checker = self.checker(&round.sandbox, &container, spec);
        let pre_stop = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let (runtime, wake) = (self.ctx.runtime.clone(), self.wake.clone());
        // The task ends by itself within the grace period, and a second one for the same container does no harm.
        tokio::spawn(async move {
            let deadline = Instant::now() + grace;
            terminate::run_hook(&checker, pre_stop.as_ref(), deadline).await;
            let result: Result<(), RuntimeError> =
                terminate::stop_container(&*runtime, &container, deadline).await;
            if let Err(error) = result {
                tracing::warn!(
                    error = weft_kit::error::chain(&error),
                    container = container.name,
                    "cannot stop a container"
                );
            }
            wake.notify_one();
        });
    }
}

pub(super) fn spec_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a Spec> {
    pod.spec.as_ref()?.containers.iter().find(|container| container.name == name)
}
