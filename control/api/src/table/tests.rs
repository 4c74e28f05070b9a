use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::registry;

const NOW: &str = "2026-01-01T00:10:00Z";

fn row(group: &str, plural: &str, object: Value) -> Vec<Value> {
    let mut object = object;
    if object.pointer("/metadata/name").is_none() {
        object["metadata"]["name"] = json!("x");
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let resource = registry::find(group, "v1", plural).unwrap();
    let cells = cells(resource, &object, NOW.parse().unwrap());
    assert_eq!(cells.len(), columns(resource).len());
    cells
}

fn status(pod: Value) -> String {
    pod_status(&pod)
}

fn container(state: Value) -> Value {
    json!({"status": {"phase": "Running", "containerStatuses": [{"name": "a", "state": state}]}})
}

#[test]
fn headings_are_those_of_kubectl() {
    let names = |group, plural, wide: bool| -> Vec<String> {
        columns(registry::find(group, "v1", plural).unwrap())
            .iter()
            .filter(|c| wide || c["priority"] == 0)
            .map(|c| c["name"].as_str().unwrap().to_uppercase())
            .collect()
    };
    assert_eq!(
        names("", "pods", true).join(" "),
        "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"
    );
    assert_eq!(names("apps", "deployments", false).join(" "), "NAME READY UP-TO-DATE AVAILABLE AGE");
    assert_eq!(names("", "services", false).join(" "), "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE");
    assert_eq!(names("batch", "jobs", false).join(" "), "NAME STATUS COMPLETIONS DURATION AGE");
}

#[test]
fn a_running_pod_shows_its_restarts_and_place() {
    let pod = json!({
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n"},
        "status": {"phase": "Running", "podIP": "127.64.0.2", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
             "lastState": {"terminated": {"finishedAt": "2026-01-01T00:09:00Z"}}},
            {"name": "b", "ready": false, "restartCount": 0, "state": {"running": {}}},
        ]},
    });
    assert_eq!(
        row("", "pods", pod),
        ["x", "1/2", "Running", "2 (60s ago)", "10m", "127.64.0.2", "n", "<none>", "<none>"]
    );
}

#[test]
fn the_status_of_a_pod_tells_what_holds_it() {
    assert_eq!(status(json!({"status": {"phase": "Pending"}})), "Pending");
    assert_eq!(status(container(json!({"waiting": {"reason": "CrashLoopBackOff"}}))), "CrashLoopBackOff");
    assert_eq!(status(container(json!({"waiting": {"reason": "ContainerCreating"}}))), "ContainerCreating");
    assert_eq!(status(container(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}))), "Completed");
    assert_eq!(status(container(json!({"terminated": {"exitCode": 3}}))), "ExitCode:3");
    assert_eq!(status(container(json!({"terminated": {"exitCode": 137, "signal": 9}}))), "Signal:9");
    assert_eq!(status(json!({"status": {"phase": "Failed", "reason": "Evicted"}})), "Evicted");
    let mut pod = container(json!({"running": {}}));
    pod["metadata"] = json!({"deletionTimestamp": NOW});
    assert_eq!(status(pod), "Terminating");
    let gated = json!({"status": {"phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}});
    assert_eq!(status(gated), "SchedulingGated");
}

#[test]
fn init_containers_are_counted_until_they_are_done() {
    let pod = |state: Value| {
        json!({
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": state}],
                "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "PodInitializing"}}}]},
        })
    };
    assert_eq!(status(pod(json!({"running": {}}))), "Init:0/1");
    assert_eq!(status(pod(json!({"waiting": {"reason": "PodInitializing"}}))), "Init:0/1");
    assert_eq!(status(pod(json!({"waiting": {"reason": "ErrImagePull"}}))), "Init:ErrImagePull");
    assert_eq!(status(pod(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))), "Init:Error");
    assert_eq!(status(pod(json!({"terminated": {"exitCode": 0}}))), "PodInitializing");
}

#[test]
fn workloads_show_their_numbers() {
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
        "template": {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}}});
    let object =
        json!({"spec": spec, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}});
    assert_eq!(
        row("apps", "deployments", object.clone()),
        [
            json!("x"),
            json!("2/3"),
            json!(3),
            json!(2),
            json!("10m"),
            json!("a,b"),
            json!("i,j"),
            json!("app=web")
        ]
    );
    assert_eq!(row("apps", "replicasets", object)[1..4], [json!(3), json!(0), json!(2)]);
    let job = json!({"spec": {"completions": 1, "parallelism": 1},
        "status": {"succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:07Z",
            "conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(row("batch", "jobs", job)[1..4], ["Complete", "1/1", "7s"]);
}

#[test]
fn services_and_nodes_show_their_addresses() {
    let service = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.1", "selector": {"a": "b"},
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 81, "protocol": "UDP"}]}});
    assert_eq!(
        row("", "services", service),
        ["x", "NodePort", "10.96.0.1", "<none>", "80:30080/TCP,81/UDP", "10m", "a=b"]
    );
    let node = json!({
        "metadata": {"name": "n", "creationTimestamp": NOW, "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
            "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]},
    });
    assert_eq!(
        row("", "nodes", node)[..7],
        ["n", "Ready,SchedulingDisabled", "control-plane", "0s", "v1", "1.2.3.4", "<none>"]
    );
}

#[test]
fn slices_are_cut_after_three_addresses() {
    let endpoints: Vec<Value> = (1..6).map(|n| json!({"addresses": [format!("10.0.0.{n}")]})).collect();
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints});
    assert_eq!(
        row("discovery.k8s.io", "endpointslices", slice)[1..4],
        ["IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more..."]
    );
    assert_eq!(row("discovery.k8s.io", "endpointslices", json!({}))[2..4], ["<unset>", "<unset>"]);
}

#[test]
fn events_of_both_groups_read_alike() {
    let core = json!({"type": "Warning", "reason": "Failed", "message": " m ", "count": 3,
        "involvedObject": {"kind": "Pod", "name": "web"}, "source": {"component": "c", "host": "h"},
        "firstTimestamp": "2026-01-01T00:08:00Z", "lastTimestamp": "2026-01-01T00:09:30Z"});
    let expected = [
        json!("30s"),
        json!("Warning"),
        json!("Failed"),
        json!("pod/web"),
        json!(""),
        json!("c, h"),
        json!("m"),
        json!("2m"),
        json!(3),
        json!("x"),
    ];
    assert_eq!(row("", "events", core.clone()), expected);
    let mut newer = core;
    crate::convert::from_storage(registry::find("events.k8s.io", "v1", "events").unwrap(), &mut newer);
    assert_eq!(row("events.k8s.io", "events", newer), expected);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(json!(NOW)),
        Just(json!("-009999-01-02T01:59:59Z")),
        "[a-z]{0,3}".prop_map(Value::from)
    ];
    let name = proptest::sample::select(vec![
        "metadata",
        "creationTimestamp",
        "spec",
        "status",
        "containerStatuses",
        "initContainerStatuses",
        "state",
        "waiting",
        "terminated",
        "lastState",
        "finishedAt",
        "conditions",
        "startTime",
        "ports",
        "endpoints",
        "series",
        "selector",
        "matchExpressions",
    ]);
    leaf.prop_recursive(6, 60, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..5).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_objects_never_panic(object in value()) {
        for res in registry::all() {
            cells(res, &object, NOW.parse().unwrap());
        }
    }
}
