//! A pod's status, computed from what is known. No I/O and no clock.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::resources;
use crate::runtime::{Container, ContainerState, Exit};

/// What the status is computed from.
#[derive(Debug, Clone)]
pub(crate) struct Inputs<'a> {
    pub(crate) pod: &'a Pod,
    /// The status that was reported last. The object that we hold may be older than that.
    pub(crate) before: Option<&'a PodStatus>,
    pub(crate) now: Timestamp,
    pub(crate) host_ip: IpAddr,
    /// Once the pod has a network.
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) start_time: Timestamp,
    /// In the order of the pod's specification.
    pub(crate) init: Vec<View>,
    pub(crate) apps: Vec<View>,
    /// The sidecar serves, or the pod has none.
    pub(crate) sidecar_ready: bool,
    /// Why the whole pod failed, decided outside of its containers.
    pub(crate) failure: Option<(&'static str, String)>,
    /// No container will be started any more.
    pub(crate) stopping: bool,
}

/// One container as it is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) image: String,
    /// The latest instance.
    pub(crate) current: Option<Container>,
    /// The instance before that, if its record is still there.
    pub(crate) previous: Option<Container>,
    /// Why there is no running instance, when there should be one: reason and message.
    pub(crate) waiting: Option<(&'static str, String)>,
    pub(crate) started: bool,
    pub(crate) ready: bool,
    /// Restarts reported before, if our records do not reach back so far.
    pub(crate) known_restarts: i32,
    /// The last end reported before, for the same case.
    pub(crate) known_last: Option<ContainerStateTerminated>,
}

/// How a pod is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

/// What happens to a container that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

/// The status to be reported; conditions of others are not in it.
pub(crate) fn compute(inputs: &Inputs<'_>) -> PodStatus {
    let previous = inputs.before;
    let policy = RestartPolicy::of(inputs.pod);
    let init: Vec<ContainerStatus> = inputs.init.iter().map(|view| container_status(view, true)).collect();
    let apps: Vec<ContainerStatus> = inputs.apps.iter().map(|view| container_status(view, false)).collect();
    let phase = match &inputs.failure {
        Some(_) => Phase::Failed,
        None => phase(policy, &init, &apps, inputs.stopping),
    };
    let (reason, message) = match &inputs.failure {
        Some((reason, message)) => (Some((*reason).to_owned()), Some(message.clone())),
        None => (None, None),
    };
    PodStatus {
        conditions: Some(conditions(inputs, phase, &init, &apps)),
        phase: Some(phase.as_str().into()),
        reason,
        message,
        host_ip: Some(inputs.host_ip.to_string()),
        host_ips: Some(vec![HostIP { ip: inputs.host_ip.to_string() }]),
        pod_ip: inputs.pod_ip.map(|ip| ip.to_string()),
        pod_ips: inputs.pod_ip.map(|ip| vec![PodIP { ip: ip.to_string() }]),
        start_time: Some(
            previous
                .and_then(|status| status.start_time.clone())
                .unwrap_or(Time(whole_second(inputs.start_time))),
        ),
        qos_class: Some(
            previous
                .and_then(|status| status.qos_class.clone())
                .unwrap_or_else(|| resources::qos_class(inputs.pod).into()),
        ),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(apps),
        ..PodStatus::default()
    }
}

/// The phase as Kubernetes derives it from the containers.
fn phase(policy: RestartPolicy, init: &[ContainerStatus], apps: &[ContainerStatus], stopping: bool) -> Phase {
    if init.iter().any(|status| init_failed(policy, status)) {
        return Phase::Failed;
    }
    if !init.iter().all(is_initialised) {
        return Phase::Pending;
    }
    let (mut waiting, mut running, mut succeeded, mut ended) = (0, 0, 0, 0);
    for status in apps {
        let Some(state) = &status.state else { continue };
        let terminated =
            state.terminated.as_ref().or_else(|| status.last_state.as_ref()?.terminated.as_ref());
        if state.running.is_some() {
            running += 1;
        } else if let Some(terminated) = terminated {
            ended += 1;
            succeeded += usize::from(terminated.exit_code == 0);
        } else {
            waiting += 1;
        }
    }
    if waiting > 0 {
        Phase::Pending
    } else if running > 0 || ended == 0 {
        Phase::Running
    } else {
        match policy {
            // Ended containers of a pod that is stopped for good will not be started again.
            RestartPolicy::Always if !stopping => Phase::Running,
            _ if succeeded == ended => Phase::Succeeded,
            RestartPolicy::OnFailure if !stopping => Phase::Running,
            _ => Phase::Failed,
        }
    }
}

fn init_failed(policy: RestartPolicy, status: &ContainerStatus) -> bool {
    let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    policy == RestartPolicy::Never && terminated.is_some_and(|terminated| terminated.exit_code != 0)
}

fn is_initialised(status: &ContainerStatus) -> bool {
    let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    terminated.is_some_and(|terminated| terminated.exit_code == 0)
}

fn container_status(view: &View, init: bool) -> ContainerStatus {
    let attempt = view.current.as_ref().map(|container| i32::try_from(container.attempt).unwrap_or(i32::MAX));
    let running = view.current.as_ref().is_some_and(Container::is_running) && view.waiting.is_none();
    let last = view
        .previous
        .as_ref()
        .and_then(|container| Some(terminated(container, container.exit()?)))
        .or_else(|| view.known_last.clone());
    let (state, last) = match (&view.waiting, &view.current) {
        (Some((reason, message)), current) => {
            let last = current
                .as_ref()
                .and_then(|container| Some(terminated(container, container.exit()?)))
                .or(last);
            (waiting_state(reason, message), last)
        }
        (None, None) => {
            let reason = if init { "PodInitializing" } else { "ContainerCreating" };
            (waiting_state(reason, ""), last)
        }
        (None, Some(container)) => (api_state(container), last),
    };
    let succeeded = state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0);
    ContainerStatus {
        name: view.name.clone(),
        image: view.current.as_ref().map_or_else(|| view.image.clone(), |container| container.image.clone()),
        image_id: view.current.as_ref().map(|container| container.image_id.clone()).unwrap_or_default(),
        container_id: view.current.as_ref().map(|container| container.id.clone()),
        // An init container is "ready" once it has done its work.
        ready: if init { succeeded } else { running && view.ready },
        started: Some(running && view.started),
        restart_count: attempt.unwrap_or(view.known_restarts),
        state: Some(state),
        last_state: last.map(|terminated| ApiState { terminated: Some(terminated), ..ApiState::default() }),
        ..ContainerStatus::default()
    }
}

fn waiting_state(reason: &str, message: &str) -> ApiState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
    };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

fn api_state(container: &Container) -> ApiState {
    match &container.state {
        ContainerState::Running { started_at } => {
            let running = ContainerStateRunning { started_at: Some(Time(whole_second(*started_at))) };
            ApiState { running: Some(running), ..ApiState::default() }
        }
        ContainerState::Exited(exit) => {
            ApiState { terminated: Some(terminated(container, exit)), ..ApiState::default() }
        }
    }
}

fn terminated(container: &Container, exit: &Exit) -> ContainerStateTerminated {
    let reason = match exit {
        Exit { oom_killed: true, .. } => "OOMKilled",
        Exit { error: Some(_), started_at: None, .. } => "StartError",
        Exit { error: Some(_), .. } => "ContainerStatusUnknown",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    };
    ContainerStateTerminated {
        container_id: Some(container.id.clone()),
        exit_code: exit.code,
        signal: exit.signal,
        reason: Some(reason.into()),
        message: exit.error.clone(),
        started_at: exit.started_at.map(|at| Time(whole_second(at))),
        finished_at: Some(Time(whole_second(exit.finished_at))),
    }
}

fn conditions(
    inputs: &Inputs<'_>,
    phase: Phase,
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
) -> Vec<PodCondition> {
    let over = matches!(phase, Phase::Succeeded | Phase::Failed);
    let finished = |phase| if phase == Phase::Failed { "PodFailed" } else { "PodCompleted" };
    let not_initialised = names(init, |status| !is_initialised(status));
    let initialised = if not_initialised.is_empty() || phase == Phase::Succeeded {
        ok("Initialized")
    } else {
        no(
            "Initialized",
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{not_initialised}]"),
        )
    };
    let unready = names(apps, |status| !status.ready);
    let containers_ready = if over {
        no("ContainersReady", finished(phase), String::new())
    } else if !unready.is_empty() {
        no("ContainersReady", "ContainersNotReady", format!("containers with unready status: [{unready}]"))
    } else if !inputs.sidecar_ready {
        no("ContainersReady", "SidecarNotReady", "the pod's proxy is not ready".into())
    } else {
        ok("ContainersReady")
    };
    let ready = match gate_not_met(inputs.pod) {
        _ if containers_ready.status != "True" => {
            PodCondition { type_: "Ready".into(), ..containers_ready.clone() }
        }
        Some(gate) => no(
            "Ready",
            "ReadinessGatesNotReady",
            format!("corresponding condition of pod readiness gate {gate:?} is not \"True\"."),
        ),
        None => ok("Ready"),
    };
    let network = if inputs.pod_ip.is_some() && !over {
        ok("PodReadyToStartContainers")
    } else {
        no("PodReadyToStartContainers", "", String::new())
    };
    let computed = [network, initialised, ready, containers_ready, ok("PodScheduled")];
    computed.into_iter().map(|condition| with_time(condition, inputs)).collect()
}

/// Keeps the time of the last change, or sets it to now.
fn with_time(mut condition: PodCondition, inputs: &Inputs<'_>) -> PodCondition {
    let mut before = inputs.before.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let before = before.find(|before| before.type_ == condition.type_);
    condition.last_transition_time = match before {
        Some(before) if before.status == condition.status && before.last_transition_time.is_some() => {
            before.last_transition_time.clone()
        }
        _ => Some(Time(whole_second(inputs.now))),
    };
    condition
}

fn gate_not_met(pod: &Pod) -> Option<&str> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_ref()?;
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let met = |gate: &str| {
        conditions.is_some_and(|conditions| conditions.iter().any(|c| c.type_ == gate && c.status == "True"))
    };
    gates.iter().map(|gate| gate.condition_type.as_str()).find(|gate| !met(gate))
}

fn names(statuses: &[ContainerStatus], wanted: impl Fn(&ContainerStatus) -> bool) -> String {
    let names: Vec<&str> =
        statuses.iter().filter(|status| wanted(status)).map(|status| status.name.as_str()).collect();
    names.join(" ")
}

fn ok(type_: &str) -> PodCondition {
    PodCondition { type_: type_.into(), status: "True".into(), ..PodCondition::default() }
}

fn no(type_: &str, reason: &str, message: String) -> PodCondition {
    PodCondition {
        type_: type_.into(),
        status: "False".into(),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        message: (!message.is_empty()).then_some(message),
        ..PodCondition::default()
    }
}

/// The API's times have whole seconds; a fraction would make each report differ from what is stored.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

// === impl Phase ===

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

// === impl RestartPolicy ===

impl RestartPolicy {
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container that ended with this code is started again.
    pub(crate) fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }

    /// The same for init containers, which are done once they have succeeded.
    pub(crate) fn restarts_init(self, exit_code: i32) -> bool {
        exit_code != 0 && self != Self::Never
    }
}

/// Whether the pod's work is over, by its reported phase.
pub(crate) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests;
