//! Pods, whose status column tells more than their phase.

use jiff::Timestamp;
use serde_json::Value;

use super::{Printer, human_duration, or_none, timestamp};
use crate::access::{int, items, items_at, text, text_at};

impl Printer<'_> {
    pub(super) fn pod(&self) -> Vec<Value> {
        let summary = Summary::of(self.object);
        let spec = self.object.get("spec").unwrap_or(&Value::Null);
        let restarts = match (summary.restarts, summary.last_restart) {
            (0, _) | (_, None) => summary.restarts.to_string(),
            (count, Some(last)) => format!("{count} ({} ago)", human_duration(self.now.duration_since(last))),
        };
        let ip = match text_at(self.object, "/status/podIPs/0/ip") {
            "" => text_at(self.object, "/status/podIP"),
            ip => ip,
        };
        vec![
            self.name(),
            format!("{}/{}", summary.ready, summary.total).into(),
            summary.status.into(),
            restarts.into(),
            self.age(),
            or_none(ip),
            or_none(text(spec, "nodeName")),
            or_none(text_at(self.object, "/status/nominatedNodeName")),
            self.readiness_gates(spec).into(),
        ]
    }

    fn readiness_gates(&self, spec: &Value) -> String {
        let gates = items(spec, "readinessGates");
        if gates.is_empty() {
            return "<none>".to_owned();
        }
        let open =
            gates.iter().filter(|gate| condition_is_true(self.object, text(gate, "conditionType"))).count();
        format!("{open}/{}", gates.len())
    }
}

/// The text of the STATUS column: the phase, or the reason why the pod is not simply that.
pub fn pod_status(pod: &Value) -> String {
    Summary::of(pod).status
}

/// What the columns say about the containers.
struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        let status = pod.get("status").unwrap_or(&Value::Null);
        let sidecars: Vec<&str> = items(spec, "initContainers")
            .iter()
            .filter(|c| text(c, "restartPolicy") == "Always")
            .map(|c| text(c, "name"))
            .collect();
        let mut summary = Self {
            status: initial_reason(status),
            ready: 0,
            total: items(spec, "containers").len() + sidecars.len(),
            restarts: 0,
            last_restart: None,
        };
        let init = summary.init_containers(spec, status, &sidecars);
        if !init.running || condition_is_true(pod, "Initialized") {
            summary.restarts = init.sidecar_restarts;
            summary.last_restart = init.last_sidecar_restart;
            summary.containers(pod, status);
        }
        if !text_at(pod, "/metadata/deletionTimestamp").is_empty() {
            if text(status, "reason") == "NodeLost" {
                summary.status = "Unknown".to_owned();
            } else if !matches!(text(status, "phase"), "Succeeded" | "Failed") {
                summary.status = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Goes over the init containers up to the first one that has not done its part.
    fn init_containers(&mut self, spec: &Value, status: &Value, sidecars: &[&str]) -> Init {
        let mut init = Init { running: false, sidecar_restarts: 0, last_sidecar_restart: None };
        for (index, container) in items(status, "initContainerStatuses").iter().enumerate() {
            let restarted = restarted_at(container);
            let restarts = int(container, "restartCount").unwrap_or(0);
            self.restarts += restarts;
            self.last_restart = self.last_restart.max(restarted);
            let is_sidecar = sidecars.contains(&text(container, "name"));
            if is_sidecar {
                init.sidecar_restarts += restarts;
                init.last_sidecar_restart = init.last_sidecar_restart.max(restarted);
            }
            let terminated = container.pointer("/state/terminated");
            if terminated.is_some_and(|t| int(t, "exitCode").unwrap_or(0) == 0) {
                continue;
            }
            if is_sidecar && is_true(container, "started") {
                self.ready += usize::from(is_true(container, "ready"));
                continue;
            }
            let waiting = text_at(container, "/state/waiting/reason");
            self.status = match terminated {
                Some(terminated) => format!("Init:{}", exit_reason(terminated)),
                None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
                None => format!("Init:{index}/{}", items(spec, "initContainers").len()),
            };
            init.running = true;
            break;
        }
        init
    }

    /// Goes over the containers from the last to the first, so that the first one with something to say has the word.
    fn containers(&mut self, pod: &Value, status: &Value) {
        let mut has_running = false;
        for container in items(status, "containerStatuses").iter().rev() {
            self.restarts += int(container, "restartCount").unwrap_or(0);
            self.last_restart = self.last_restart.max(restarted_at(container));
            let waiting = text_at(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if let Some(terminated) = container.pointer("/state/terminated") {
                self.status = exit_reason(terminated);
            } else if is_true(container, "ready") && container.pointer("/state/running").is_some() {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && has_running {
            let ready = condition_is_true(pod, "Ready");
            self.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

/// What the init containers leave for the rest to know.
struct Init {
    /// Whether one of them is still to finish.
    running: bool,
    sidecar_restarts: i64,
    last_sidecar_restart: Option<Timestamp>,
}

fn initial_reason(status: &Value) -> String {
    let gated = items(status, "conditions")
        .iter()
        .any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated");
    if gated {
        return "SchedulingGated".to_owned();
    }
    match text(status, "reason") {
        "" => text(status, "phase").to_owned(),
        reason => reason.to_owned(),
    }
}

fn exit_reason(terminated: &Value) -> String {
    match (text(terminated, "reason"), int(terminated, "signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", int(terminated, "exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn restarted_at(container: &Value) -> Option<Timestamp> {
    timestamp(container.pointer("/lastState/terminated/finishedAt"))
}

fn is_true(object: &Value, key: &str) -> bool {
    object.get(key) == Some(&Value::Bool(true))
}

pub(super) fn condition_is_true(object: &Value, condition_type: &str) -> bool {
    items_at(object, "/status/conditions")
        .iter()
        .any(|c| text(c, "type") == condition_type && text(c, "status") == "True")
}
