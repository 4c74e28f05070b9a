use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::*;
use crate::runtime::{PodUid, Role};

const T: &str = "2026-11-23T21:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn pod(policy: &str, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "containers": []}, "status": status
    }))
    .expect("a pod")
}

fn container(attempt: u32, state: ContainerState) -> Container {
    Container {
        pod: PodUid::new("u").expect("valid"),
        name: "c".into(),
        role: Role::App,
        attempt,
        id: format!("process://u-c-{attempt}"),
        image: "image".into(),
        image_id: "id".into(),
        state,
    }
}

fn running() -> View {
    let current = Some(container(0, ContainerState::Running { started_at: at(T) }));
    View { name: "c".into(), current, started: true, ready: true, ..View::default() }
}

fn exited(code: i32) -> View {
    View {
        name: "c".into(),
        current: Some(container(0, ContainerState::Exited(exit(code)))),
        ..View::default()
    }
}

fn exit(code: i32) -> Exit {
    Exit { code, signal: None, oom_killed: false, error: None, started_at: Some(at(T)), finished_at: at(T) }
}

fn status(pod: &Pod, init: Vec<View>, apps: Vec<View>) -> PodStatus {
    compute(&Inputs {
        pod,
        before: pod.status.as_ref(),
        now: at("2026-11-23T22:00:00.5Z"),
        host_ip: Ipv4Addr::LOCALHOST.into(),
        pod_ip: Some(Ipv4Addr::new(127, 64, 0, 2).into()),
        start_time: at(T),
        init,
        apps,
        sidecar_ready: true,
        failure: None,
        stopping: false,
    })
}

fn condition(status: &PodStatus, type_: &str) -> PodCondition {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().find(|condition| condition.type_ == type_).expect("there").clone()
}

fn phase_of(policy: &str, apps: Vec<View>) -> String {
    status(&pod(policy, json!({})), Vec::new(), apps).phase.expect("a phase")
}

#[test]
fn phases_follow_the_containers_and_the_restart_policy() {
    let waiting = || View { name: "c".into(), ..View::default() };
    assert_eq!(phase_of("Always", vec![waiting()]), "Pending");
    assert_eq!(phase_of("Always", vec![running(), waiting()]), "Pending");
    assert_eq!(phase_of("Always", vec![running(), exited(1)]), "Running");
    assert_eq!(phase_of("Always", vec![exited(0)]), "Running");
    assert_eq!(phase_of("OnFailure", vec![exited(0)]), "Succeeded");
    assert_eq!(phase_of("OnFailure", vec![exited(1)]), "Running");
    assert_eq!(phase_of("Never", vec![exited(0), exited(1)]), "Failed");
    assert_eq!(phase_of("Never", vec![exited(0), exited(0)]), "Succeeded");
}

#[test]
fn a_running_ready_pod_has_all_conditions() {
    let status = status(&pod("Always", json!({})), Vec::new(), vec![running()]);
    for type_ in ["PodScheduled", "Initialized", "ContainersReady", "Ready", "PodReadyToStartContainers"] {
        assert_eq!(condition(&status, type_).status, "True", "{type_}");
    }
    assert_eq!(status.pod_ip.as_deref(), Some("127.64.0.2"));
    let container = &status.container_statuses.expect("there")[0];
    assert!(container.ready && container.started == Some(true));
}

#[test]
fn an_unready_container_is_named_in_the_condition() {
    let view = View { ready: false, ..running() };
    let status = status(&pod("Always", json!({})), Vec::new(), vec![view]);
    let ready = condition(&status, "Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ContainersNotReady")));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [c]"));
}

#[test]
fn a_crash_loop_shows_its_reason_and_the_last_end() {
    let view = View { waiting: Some(("CrashLoopBackOff", "back-off 10s".into())), ..exited(3) };
    let status = status(&pod("Always", json!({})), Vec::new(), vec![view]);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.expect("there")[0];
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref()).expect("waiting");
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("ended");
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
}

#[test]
fn restarts_are_counted_and_the_end_before_is_kept() {
    let view = View {
        current: Some(container(2, ContainerState::Running { started_at: at(T) })),
        previous: Some(container(1, ContainerState::Exited(exit(1)))),
        ..running()
    };
    let status = status(&pod("Always", json!({})), Vec::new(), vec![view]);
    let container = &status.container_statuses.expect("there")[0];
    assert_eq!(container.restart_count, 2);
    assert!(container.last_state.as_ref().is_some_and(|state| state.terminated.is_some()));
}

#[test]
fn reasons_tell_how_a_container_ended() {
    let of = |change: fn(&mut Exit)| {
        let mut exit = exit(137);
        change(&mut exit);
        terminated(&container(0, ContainerState::Exited(exit.clone())), &exit).reason.expect("a reason")
    };
    assert_eq!(of(|exit| exit.code = 0), "Completed");
    assert_eq!(of(|_| {}), "Error");
    assert_eq!(of(|exit| exit.oom_killed = true), "OOMKilled");
    assert_eq!(of(|exit| (exit.error, exit.started_at) = (Some("no such file".into()), None)), "StartError");
    assert_eq!(of(|exit| exit.error = Some("lost".into())), "ContainerStatusUnknown");
}

#[test]
fn init_containers_hold_the_pod_and_may_fail_it() {
    let waiting = vec![View { name: "c".into(), ..View::default() }];
    let status_with = |policy: &str, init: View| status(&pod(policy, json!({})), vec![init], waiting.clone());
    let pending = status_with("Always", running());
    assert_eq!(pending.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&pending, "Initialized").reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(status_with("Never", exited(1)).phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&status_with("Always", exited(0)), "Initialized").status, "True");
}

#[test]
fn transition_times_change_only_with_the_status() {
    let before = json!({"conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": T},
        {"type": "Ready", "status": "False", "lastTransitionTime": T}]});
    let status = status(&pod("Always", before), Vec::new(), vec![running()]);
    let time = |type_: &str| condition(&status, type_).last_transition_time.expect("a time").0;
    assert_eq!(time("PodScheduled"), at(T));
    assert_eq!(time("Ready"), at("2026-11-23T22:00:00Z"));
}

#[test]
fn a_readiness_gate_without_its_condition_keeps_the_pod_unready() {
    let mut pod = pod("Always", json!({"conditions": []}));
    pod.spec.as_mut().expect("a spec").readiness_gates =
        serde_json::from_value(json!([{"conditionType": "weft.dev/acknowledged"}])).expect("gates");
    let unmet = status(&pod, Vec::new(), vec![running()]);
    assert_eq!(condition(&unmet, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
    pod.status =
        serde_json::from_value(json!({"conditions": [{"type": "weft.dev/acknowledged", "status": "True"}]}))
            .expect("a status");
    assert_eq!(condition(&status(&pod, Vec::new(), vec![running()]), "Ready").status, "True");
}

#[test]
fn restarts_known_from_before_survive_the_loss_of_our_records() {
    let view = View { name: "c".into(), known_restarts: 4, ..View::default() };
    let status = status(&pod("Always", json!({})), Vec::new(), vec![view]);
    assert_eq!(status.container_statuses.expect("there")[0].restart_count, 4);
}
