//! The end of a pod, in phases: hooks and drain (out of all endpoint sets, then idle) side by side, then SIGTERM, then
//! SIGKILL, the sidecar last of all.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{LifecycleHandler, Pod};
use kube::api::{DeleteParams, Preconditions};
use tokio::time::{Instant, timeout, timeout_at};
use weft_api::mesh::{ADMIN_PORT, OUT_OF_ROTATION};

use super::{
    containers::spec_of,
    hooks,
    probe::Checker,
    worker::{Intent, SyncError, Worker},
};
use crate::{
    agent::events::Severity,
    runtime::{Container, Role, Runtime, RuntimeError, Sandbox},
    sidecar::Admin,
};

/// Kubernetes' default grace period.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// What a sidecar gets to stop; it has nothing left to do by then.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);
/// How long the last report of an agent that stops may take.
const LAST_REPORT: Duration = Duration::from_secs(2);
/// How often a container that was told to stop is looked at.
const STOP_POLL: Duration = Duration::from_millis(10);

impl Worker {
    /// Ends a pod whose object is marked for deletion, and lets the object go.
    pub(super) async fn terminate(&mut self, pod: &Arc<Pod>) -> Result<(), SyncError> {
        let abandoned = self.abandoned();
        let work = async {
            let runtime = self.ctx.runtime.clone();
            let records = runtime.containers(&self.pod.uid).await?;
            let running = records.into_iter().filter(Container::is_running).collect();
            self.stop_all(Some(pod), running, deletion_grace(pod), true).await?;
            self.probers.clear();
            let records = runtime.containers(&self.pod.uid).await?;
            let sandbox = runtime.sandbox(&self.pod).await?;
            self.stopping_for_good = true;
            self.report(pod, sandbox.as_ref(), &records, true).await?;
            self.let_go().await
        };
        // A forced deletion must not wait for the grace period of the one before.
        tokio::select! {
            result = work => result,
            () = abandoned => Ok(()),
        }
    }

    /// The agent stops for good: the containers end, their pod stays and starts again with the next agent.
    pub(super) async fn stop_for_good(&mut self) -> Result<(), SyncError> {
        let runtime = self.ctx.runtime.clone();
        let records = runtime.containers(&self.pod.uid).await?;
        let running: Vec<Container> = records.into_iter().filter(Container::is_running).collect();
        let pod = self.followed.clone();
        let grace = self.ctx.timing.stop_grace;
        let grace = pod.as_ref().map_or(grace, |pod| grace_of(pod).min(grace));
        let any = !running.is_empty();
        self.stop_all(pod.as_deref(), running, grace, false).await?;
        if let (Some(pod), true) = (pod, any) {
            let records = runtime.containers(&self.pod.uid).await?;
            let sandbox = runtime.sandbox(&self.pod).await?;
            self.probers.clear();
            // The API server may be on its way out as well; what is not reported now is found at the next start.
            let report = self.report(&pod, sandbox.as_ref(), &records, false);
            if !matches!(timeout(LAST_REPORT, report).await, Ok(Ok(()))) {
                tracing::debug!("the last status was not reported");
            }
        }
        runtime.remove_pod(&self.pod.uid).await?;
        Ok(())
    }

    /// The object is gone: whatever is left goes too.
    pub(super) async fn erase(&mut self) -> Result<(), SyncError> {
        self.probers.clear();
        self.ctx.runtime.remove_pod(&self.pod.uid).await?;
        let directory = self.ctx.pod_dir(&self.pod.uid);
        match tokio::fs::remove_dir_all(&directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RuntimeError::io(format!("remove {}", directory.display()))(error).into())
            }
            _ => Ok(()),
        }
    }

    async fn let_go(&self) -> Result<(), SyncError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            // A pod of the same name that was made meanwhile is not ours to delete.
            preconditions: Some(Preconditions {
                uid: Some(self.pod.uid.to_string()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.ctx.api(&self.pod.namespace).delete(&self.pod.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(source) => Err(SyncError::Api { action: "delete", source }),
        }
    }

    /// Stops `running` and, after all others, the sidecar among them. With `drain` the pod's clients go elsewhere before
    /// the first SIGTERM.
    pub(super) async fn stop_all(
        &self,
        pod: Option<&Pod>,
        running: Vec<Container>,
        grace: Duration,
        drain: bool,
    ) -> Result<(), SyncError> {
        let (sidecars, apps): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|container| container.role == Role::Sidecar);
        let runtime = &self.ctx.runtime;
        let deadline = Instant::now() + grace;
        if !apps.is_empty() {
            let sandbox = runtime.sandbox(&self.pod).await?;
            for container in &apps {
                if let Some(pod) = pod {
                    let text = format!("Stopping container {}", container.name);
                    self.ctx.events.pod(pod, Some(&container.name), Severity::Normal, "Killing", text);
                }
            }
            let hooks = futures::future::join_all(
                apps.iter().map(|container| self.pre_stop(pod, sandbox.as_ref(), container, deadline)),
            );
            let drained = async {
                if drain {
                    let sidecar = sandbox.as_ref().filter(|_| !sidecars.is_empty());
                    self.drain(pod, sidecar, deadline).await;
                }
            };
            tokio::join!(hooks, drained);
            let stops = apps.iter().map(|container| stop_container(&**runtime, container, deadline));
            for result in futures::future::join_all(stops).await {
                result?;
            }
        }
        for sidecar in &sidecars {
            stop_container(&**runtime, sidecar, Instant::now() + SIDECAR_GRACE.min(grace)).await?;
        }
        Ok(())
    }

    async fn pre_stop(
        &self,
        pod: Option<&Pod>,
        sandbox: Option<&Sandbox>,
        container: &Container,
        deadline: Instant,
    ) {
        let (Some(pod), Some(sandbox)) = (pod, sandbox) else { return };
        let Some(spec) = spec_of(pod, &container.name) else { return };
        let hook = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let checker = self.checker(sandbox, container, spec);
        if let Some(text) = run_hook(&checker, hook, deadline).await {
            self.ctx.events.pod(pod, Some(&container.name), Severity::Warning, "FailedPreStopHook", text);
        }
    }

    /// The deletion mark has taken the pod out of its services; what this waits for is that every proxy has acknowledged
    /// that, and that the last requests are answered. The sidecar meanwhile tells clients that reuse connections to leave.
    async fn drain(&self, pod: Option<&Pod>, sidecar: Option<&Sandbox>, deadline: Instant) {
        // A second is kept back for the application's own end.
        let last = deadline.checked_sub(Duration::from_secs(1)).unwrap_or(deadline);
        let admin = sidecar.map(|sandbox| Admin::new(SocketAddr::from((sandbox.sidecar_ip, ADMIN_PORT))));
        if let Some(admin) = &admin
            && let Err(error) = admin.drain().await
        {
            tracing::debug!(error = weft_kit::error::chain(&error), "the sidecar does not drain");
        }
        self.until_out_of_rotation(pod, last).await;
        if let Some(admin) = &admin {
            let bound = last.saturating_duration_since(Instant::now()).min(self.ctx.timing.drain_max);
            if !admin.until_idle(bound).await {
                tracing::warn!(?bound, "requests are still in progress, stopping the pod all the same");
            }
        }
    }

    /// Waits until the mesh control says that no proxy uses the pod any more, and no longer than is allowed: then the pod
    /// ends all the same, and an Event says so. Who deletes a pod and leaves no time to wait is told nothing.
    async fn until_out_of_rotation(&self, pod: Option<&Pod>, last: Instant) {
        let bound = self.ctx.timing.out_of_rotation.min(last.saturating_duration_since(Instant::now()));
        let told = self.once(|intent| !matches!(intent, Intent::Follow(pod) if !is_out_of_rotation(pod)));
        if timeout(bound, told).await.is_ok() {
            return;
        }
        let Some(text) = still_in_rotation(bound) else { return };
        tracing::warn!("{text}");
        if let Some(pod) = pod {
            self.ctx.events.pod(pod, None, Severity::Warning, "StillInRotation", text);
        }
    }
}

/// What is told of proxies that were waited for in vain; nothing if there was no time to wait.
fn still_in_rotation(bound: Duration) -> Option<String> {
    // Whole seconds say enough, but of less than one.
    let places = if bound < Duration::from_secs(1) { 100.0 } else { 1.0 };
    let seconds = (bound.as_secs_f64() * places).round() / places;
    let text = format!(
        "Proxies have not all acknowledged within {seconds} s that the pod goes, stopping it all the same"
    );
    (!bound.is_zero()).then_some(text)
}

fn is_out_of_rotation(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == OUT_OF_ROTATION && c.status == "True"))
}

/// Runs a hook if there is one; what went wrong, if anything did.
pub(super) async fn run_hook(
    checker: &Checker,
    hook: Option<&LifecycleHandler>,
    deadline: Instant,
) -> Option<String> {
    match timeout_at(deadline, hooks::run(checker, hook?)).await {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(format!("PreStopHook failed: {}", failure.0)),
        Err(_) => Some("PreStopHook did not end within the grace period".into()),
    }
}

/// SIGTERM, the rest of the grace period, SIGKILL.
pub(super) async fn stop_container(
    runtime: &dyn Runtime,
    container: &Container,
    deadline: Instant,
) -> Result<(), RuntimeError> {
    if Instant::now() < deadline {
        runtime.stop(container).await?;
        while Instant::now() < deadline {
            if !runs(runtime, container).await? {
                return Ok(());
            }
            tokio::time::sleep(STOP_POLL).await;
        }
    }
    if runs(runtime, container).await? {
        tracing::info!(container = container.name, "grace period is over, killing the container");
        runtime.kill(container).await?;
    }
    Ok(())
}

async fn runs(runtime: &dyn Runtime, container: &Container) -> Result<bool, RuntimeError> {
    let records = runtime.containers(&container.pod).await?;
    Ok(records.iter().any(|record| record.id == container.id && record.is_running()))
}

/// The grace period that a pod asks for.
pub(super) fn grace_of(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DEFAULT_GRACE, Duration::from_secs)
}

/// The grace period that whoever deleted it asked for.
fn deletion_grace(pod: &Pod) -> Duration {
    let seconds = pod.metadata.deletion_grace_period_seconds;
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or_else(|| grace_of(pod), Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_that_were_waited_for_in_vain_are_told_of_with_a_time_that_one_can_read() {
        assert_eq!(still_in_rotation(Duration::ZERO), None, "there was no time to wait");
        for (bound, shown) in [
            (Duration::from_millis(50), "0.05"),
            (Duration::from_nanos(3_998_712_345), "4"),
            (Duration::from_nanos(998_712_345), "1"),
            (Duration::from_secs(7), "7"),
        ] {
            let text = still_in_rotation(bound).expect("it is told");
            assert!(text.contains(&format!(" within {shown} s ")), "{text}");
        }
    }
}
