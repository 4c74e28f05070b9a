//! The Node object: what the cluster knows about this machine.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_api::mesh::GATEWAY_ADMIN;

use super::{
    events::{Recorder, Severity},
    machine::{Machine, architecture},
};
use crate::{config::Timing, runtime::Runtime};

/// What the Node object says, and does not change while the agent runs.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    pub(super) name: String,
    pub(super) ip: IpAddr,
    pub(super) kubelet_port: u16,
    pub(super) gateway_admin: Option<SocketAddr>,
    pub(super) machine: Machine,
}

/// Keeps the Node object up to date.
#[derive(Debug)]
pub(super) struct NodeReporter {
    api: Api<Node>,
    registration: Registration,
    runtime: Arc<dyn Runtime>,
    events: Recorder,
    timing: Timing,
    reported: Mutex<Option<Reported>>,
}

/// What was reported last.
#[derive(Debug, Clone)]
struct Reported {
    conditions: Vec<NodeCondition>,
    at: Instant,
}

/// Version that kubectl shows; its first part is the Kubernetes whose behaviour we follow.
const KUBELET_VERSION: &str = "v1.33.0+weft";
/// Pods per node, Kubernetes' default.
const PODS: &str = "110";

// === impl NodeReporter ===

impl NodeReporter {
    pub(super) fn new(
        client: kube::Client,
        registration: Registration,
        runtime: Arc<dyn Runtime>,
        events: Recorder,
        timing: Timing,
    ) -> Self {
        Self { api: Api::all(client), registration, runtime, events, timing, reported: Mutex::new(None) }
    }

    /// Makes the Node object, or takes over the one that is there, and reports for the first time.
    pub(super) async fn register(&self) -> Result<(), kube::Error> {
        let name = &self.registration.name;
        let node = match self.api.get_opt(name).await? {
            Some(node) => node,
            None => match self.api.create(&PostParams::default(), &self.registration.node()).await {
                Ok(node) => node,
                // Somebody made it just now; it is taken over as if it had been there.
                Err(kube::Error::Api(status)) if status.code == 409 => self.api.get(name).await?,
                Err(error) => return Err(error),
            },
        };
        let metadata = json!({"metadata": {
            "labels": self.registration.labels(), "annotations": self.registration.annotations(),
        }});
        self.api.patch(name, &PatchParams::default(), &Patch::Merge(&metadata)).await?;
        // What the object says of an earlier run holds for the times of the conditions.
        let conditions =
            node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        *self.reported.lock() = Some(Reported { conditions, at: Instant::now() });
        self.report(true).await?;
        self.events.node(&node, Severity::Normal, "Starting", "Starting weft node agent.");
        Ok(())
    }

    /// Reports whatever changes, and from time to time that nothing did.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.timing.lease_renew) => {}
                () = shutdown.cancelled() => return,
            }
            if let Err(error) = self.report(false).await {
                tracing::warn!(%error, "cannot report the node's status");
            }
        }
    }

    /// Says that this node will run nothing from now on.
    pub(super) async fn say_goodbye(&self) {
        let now = Timestamp::now();
        let before = self.reported.lock().clone().map(|reported| reported.conditions).unwrap_or_default();
        let stopped = condition("Ready", "False", "AgentStopped", "the node agent was stopped", &before, now);
        let patch = json!({"status": {"conditions": [stopped]}});
        let patch = Patch::Strategic(&patch);
        let params = PatchParams::default();
        let call = self.api.patch_status(&self.registration.name, &params, &patch);
        if !matches!(tokio::time::timeout(Duration::from_secs(2), call).await, Ok(Ok(_))) {
            tracing::debug!("the node's end was not reported");
        }
    }

    async fn report(&self, always: bool) -> Result<(), kube::Error> {
        let health = tokio::time::timeout(Duration::from_secs(5), self.runtime.health()).await;
        let problem = match health {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(weft_kit::error::chain(&error)),
            Err(_) => Some("the container runtime does not answer".into()),
        };
        let before = self.reported.lock().clone();
        let old = before.as_ref().map(|reported| reported.conditions.as_slice()).unwrap_or_default();
        let machine = &self.registration.machine;
        let conditions = conditions(
            problem.as_deref(),
            machine.is_short_of_memory(),
            machine.is_short_of_disk(),
            old,
            Timestamp::now(),
        );
        let unchanged = conditions.iter().all(|new| {
            old.iter()
                .any(|old| (&old.type_, &old.status, &old.reason) == (&new.type_, &new.status, &new.reason))
        });
        let recent = before.as_ref().is_some_and(|before| before.at.elapsed() < self.timing.node_status);
        if !always && unchanged && recent {
            return Ok(());
        }
        let status = self.registration.status(&self.runtime.version(), conditions.clone());
        let patch = json!({ "status": status });
        self.api
            .patch_status(&self.registration.name, &PatchParams::default(), &Patch::Strategic(&patch))
            .await?;
        *self.reported.lock() = Some(Reported { conditions, at: Instant::now() });
        Ok(())
    }
}

// === impl Registration ===

impl Registration {
    fn node(&self) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels()),
                ..ObjectMeta::default()
            },
            ..Node::default()
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from(
            [
                ("kubernetes.io/hostname", self.name.as_str()),
                ("kubernetes.io/os", "linux"),
                ("kubernetes.io/arch", architecture()),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        )
    }

    fn annotations(&self) -> Value {
        json!({ GATEWAY_ADMIN: self.gateway_admin.map(|address| address.to_string()) })
    }

    fn status(&self, runtime_version: &str, conditions: Vec<NodeCondition>) -> NodeStatus {
        let machine = &self.machine;
        let resources = BTreeMap::from([
            ("cpu".to_owned(), Quantity(machine.cpus.to_string())),
            ("memory".to_owned(), Quantity(format!("{}Ki", machine.memory / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", machine.disk / 1024))),
            ("pods".to_owned(), Quantity(PODS.into())),
        ]);
        let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
        NodeStatus {
            addresses: Some(vec![
                address("InternalIP", self.ip.to_string()),
                address("Hostname", machine.hostname.clone()),
            ]),
            allocatable: Some(resources.clone()),
            capacity: Some(resources),
            conditions: Some(conditions),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.kubelet_port) }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: architecture().into(),
                boot_id: machine.boot_id.clone(),
                container_runtime_version: runtime_version.to_owned(),
                kernel_version: machine.kernel.clone(),
                kube_proxy_version: String::new(),
                kubelet_version: KUBELET_VERSION.into(),
                machine_id: machine.machine_id.clone(),
                operating_system: "linux".into(),
                os_image: machine.os_image.clone(),
                system_uuid: machine.machine_id.clone(),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }
    }
}

fn conditions(
    problem: Option<&str>,
    short_of_memory: bool,
    short_of_disk: bool,
    before: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let pressure = |type_, is: bool, yes, no, message| {
        condition(type_, if is { "True" } else { "False" }, if is { yes } else { no }, message, before, now)
    };
    let memory = if short_of_memory {
        "kubelet has insufficient memory available"
    } else {
        "kubelet has sufficient memory available"
    };
    let disk = if short_of_disk { "kubelet has disk pressure" } else { "kubelet has no disk pressure" };
    vec![
        pressure(
            "MemoryPressure",
            short_of_memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            memory,
        ),
        pressure("DiskPressure", short_of_disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", disk),
        pressure(
            "PIDPressure",
            false,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        match problem {
            None => {
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", before, now)
            }
            Some(problem) => condition("Ready", "False", "KubeletNotReady", problem, before, now),
        },
    ]
}

fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    before: &[NodeCondition],
    now: Timestamp,
) -> NodeCondition {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let since = before
        .iter()
        .find(|before| before.type_ == type_ && before.status == status)
        .and_then(|before| before.last_transition_time.clone());
    NodeCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: Some(since.unwrap_or(now)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("valid")
    }

    fn ready(conditions: &[NodeCondition]) -> &NodeCondition {
        conditions.iter().find(|condition| condition.type_ == "Ready").expect("always there")
    }

    #[test]
    fn a_runtime_that_does_not_answer_makes_the_node_unready() {
        let first = conditions(None, false, false, &[], at(100));
        assert_eq!(ready(&first).status, "True");
        let second = conditions(Some("docker is gone"), false, false, &first, at(200));
        assert_eq!(
            (ready(&second).status.as_str(), ready(&second).message.as_deref()),
            ("False", Some("docker is gone"))
        );
        assert_eq!(ready(&second).last_transition_time, Some(Time(at(200))));
    }

    #[test]
    fn heartbeats_move_and_transitions_stay() {
        let first = conditions(None, false, false, &[], at(100));
        let second = conditions(None, false, false, &first, at(200));
        assert_eq!(ready(&second).last_transition_time, Some(Time(at(100))));
        assert_eq!(ready(&second).last_heartbeat_time, Some(Time(at(200))));
    }
}
