//! The process runtime, from a pod's object to its processes and back.

mod support;

use std::time::Duration;

use kube::api::{LogParams, Patch, PatchParams};
use serde_json::{Value, json};
use weft_node::{RuntimeChoice, StopMode};

use support::{Cluster, condition, container, marker, processes, shell, wait_no_processes};

const PROCESS: RuntimeChoice = RuntimeChoice::Process;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_is_reported_and_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    let marker = marker(cluster.directory.path());
    let script = format!("echo ip $POD_IP name $NAME; : {marker}; while :; do sleep 0.1; done");
    let mut main = shell("main", &script);
    main["env"] = json!([{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    cluster.create("p", json!({"containers": [main], "terminationGracePeriodSeconds": 5})).await;

    let pod = cluster.wait_ready("p").await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    for type_ in ["PodScheduled", "Initialized", "ContainersReady"] {
        assert_eq!(condition(&pod, type_), Some("True"), "{type_}");
    }
    assert!(container(&pod)["state"]["running"]["startedAt"].is_string());
    assert!(container(&pod)["containerID"].as_str().is_some_and(|id| id.starts_with("process://")));
    let ip = pod["status"]["podIP"].as_str().expect("an address").to_owned();
    assert!(ip.starts_with("127."), "{ip}");

    let node = json!(cluster.nodes().get("node-a").await.expect("the node"));
    assert_eq!(condition(&node, "Ready"), Some("True"));
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.33.0+weft");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node-a");

    for family in ["container_memory_working_set_bytes", "container_cpu_usage_seconds_total"] {
        cluster
            .wait_metric(&format!("{family}{{container=\"main\",namespace=\"default\",pod=\"p\"}} "))
            .await;
    }
    // Through the API server to the kubelet API, over TLS.
    let logs = cluster.pods().logs("p", &LogParams::default()).await.expect("logs");
    assert_eq!(logs, format!("ip {ip} name p\n"));
    for reason in ["Pulled", "Created", "Started"] {
        cluster.wait_event(reason).await;
    }

    cluster.delete("p").await;
    cluster.wait_gone("p").await;
    wait_no_processes(&marker).await;
    cluster.wait_event("Killing").await;
    agent.stop(StopMode::Drain).await;
    assert!(processes(&marker).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_containers_run_in_turn_and_a_finished_pod_keeps_its_logs() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    let volume = json!([{"name": "data", "mountPath": "/weft-test-data"}]);
    let with_volume = |mut container: Value| {
        container["volumeMounts"] = volume.clone();
        container
    };
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{"name": "data", "emptyDir": {}}],
        "initContainers": [
            with_volume(shell("first", "echo one >> $WEFT_VOLUME_DATA/f")),
            with_volume(shell("second", "echo two >> $WEFT_VOLUME_DATA/f")),
        ],
        "containers": [with_volume(shell("main", "cat $WEFT_VOLUME_DATA/f; echo problem >&2; exit 3"))],
    });
    cluster.create("job", spec).await;
    let pod = cluster.wait("job", "failed", |pod| pod["status"]["phase"] == "Failed").await;
    let terminated = &container(&pod)["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&json!(3), &json!("Error")));
    let init = pod["status"]["initContainerStatuses"].as_array().expect("there");
    assert!(
        init.iter().all(|status| status["ready"] == true && status["state"]["terminated"]["exitCode"] == 0)
    );

    let logs = cluster.pods().logs("job", &LogParams::default()).await.expect("logs");
    let mut lines: Vec<&str> = logs.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "problem", "two"]);
    let tail = LogParams { tail_lines: Some(1), timestamps: true, ..LogParams::default() };
    let tail = cluster.pods().logs("job", &tail).await.expect("logs");
    assert_eq!(tail.lines().count(), 1);
    assert!(tail.starts_with("20"), "{tail}");
    cluster.delete("job").await;
    cluster.wait_gone("job").await;
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_keeps_ending_is_restarted_and_then_waits() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    cluster.create("crash", json!({"containers": [shell("main", "echo run; exit 1")]})).await;
    let pod = cluster
        .wait("crash", "in a crash loop", |pod| {
            container(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    assert_eq!(container(&pod)["restartCount"], 1);
    assert_eq!(container(&pod)["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(pod["status"]["phase"], "Running");
    let text = cluster.wait_event("BackOff").await;
    assert!(text.contains("main"), "{text}");
    let previous = LogParams { previous: true, ..LogParams::default() };
    assert_eq!(cluster.pods().logs("crash", &previous).await.expect("logs"), "run\n");
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_decide_about_readiness_and_restarts() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    let file = cluster.directory.path().join("healthy");
    let check = json!({"exec": {"command": ["/bin/sh", "-c", format!("test -e {}", file.display())]},
        "periodSeconds": 1, "failureThreshold": 1});
    let mut ready = shell("main", "while :; do sleep 0.1; done");
    ready["readinessProbe"] = check.clone();
    cluster.create("ready", json!({"containers": [ready], "terminationGracePeriodSeconds": 1})).await;
    cluster.wait("ready", "running", |pod| container(pod)["state"]["running"].is_object()).await;
    let pod = cluster.wait("ready", "unready", |pod| condition(pod, "Ready") == Some("False")).await;
    assert_eq!(container(&pod)["ready"], false);
    std::fs::write(&file, "").expect("written");
    cluster.wait_ready("ready").await;

    let mut alive = shell("main", "while :; do sleep 0.1; done");
    alive["livenessProbe"] = check;
    cluster.create("alive", json!({"containers": [alive], "terminationGracePeriodSeconds": 1})).await;
    cluster.wait_ready("alive").await;
    std::fs::remove_file(&file).expect("removed");
    cluster.wait("ready", "unready again", |pod| condition(pod, "Ready") == Some("False")).await;
    cluster.wait("alive", "restarted", |pod| container(pod)["restartCount"].as_i64() >= Some(1)).await;
    let text = cluster.wait_event("Unhealthy").await;
    assert!(text.contains("probe failed"), "{text}");
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_comes_back_adopts_what_runs() {
    let cluster = Cluster::start().await;
    let marker = marker(cluster.directory.path());
    let agent = cluster.agent(PROCESS).await;
    let script = format!("echo started; : {marker}; while :; do sleep 0.1; done");
    for name in ["stays", "goes"] {
        cluster
            .create(name, json!({"containers": [shell("main", &script)], "terminationGracePeriodSeconds": 1}))
            .await;
        cluster.wait_ready(name).await;
    }
    let before = cluster.wait_ready("stays").await;
    agent.stop(StopMode::Detach).await;
    assert!(!processes(&marker).is_empty(), "workloads outlive the agent");
    // While nobody looks, one pod is deleted for good.
    let params = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    cluster.pods().delete("goes", &params).await.expect("deleted");
    let patch = json!({"metadata": {"labels": {"touched": "yes"}}});
    cluster.pods().patch("stays", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("patched");

    let agent = cluster.agent(PROCESS).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = cluster.wait_ready("stays").await;
    assert_eq!(container(&before)["containerID"], container(&after)["containerID"]);
    assert_eq!(container(&after)["restartCount"], 0);
    assert_eq!(before["status"]["podIP"], after["status"]["podIP"]);
    let logs = cluster.pods().logs("stays", &LogParams::default()).await.expect("logs");
    assert_eq!(logs, "started\n", "it was not started twice");
    // Shim and shell of the pod that stays; the other's are gone.
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while processes(&marker).len() > 1 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", processes(&marker));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    agent.stop(StopMode::Drain).await;
    wait_no_processes(&marker).await;

    // The pod was stopped with the agent, not by its own fault: the next agent starts it again.
    let agent = cluster.agent(PROCESS).await;
    let again = cluster
        .wait("stays", "running again", |pod| {
            container(pod)["restartCount"] == 1 && condition(pod, "Ready") == Some("True")
        })
        .await;
    assert_ne!(container(&again)["containerID"], container(&after)["containerID"]);
    agent.stop(StopMode::Drain).await;
    wait_no_processes(&marker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_runs_the_hook_then_asks_then_kills() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    let marker = marker(cluster.directory.path());
    let order = cluster.directory.path().join("order");
    let script = format!(
        "trap 'echo term >> {0}' TERM; : {marker}; (trap '' TERM; while :; do sleep 0.1; done) & while :; do sleep 0.1; done",
        order.display()
    );
    let mut main = shell("main", &script);
    let hook = format!("echo hook >> {}", order.display());
    main["lifecycle"] = json!({"preStop": {"exec": {"command": ["/bin/sh", "-c", hook]}}});
    cluster.create("stubborn", json!({"containers": [main], "terminationGracePeriodSeconds": 1})).await;
    cluster.wait_ready("stubborn").await;
    cluster.delete("stubborn").await;
    cluster.wait_gone("stubborn").await;
    wait_no_processes(&marker).await;
    assert_eq!(std::fs::read_to_string(&order).expect("written"), "hook\nterm\n");
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_of_the_same_name_is_refused() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    let config = cluster.config(PROCESS, "node-a", "other");
    let error = weft_node::start(config, cluster.shutdown.child_token()).await.expect_err("refused");
    assert!(matches!(error, weft_node::Error::Duplicate { .. }), "{error}");
    let config = cluster.config(PROCESS, "node-a", "agent");
    let error = weft_node::start(config, cluster.shutdown.child_token()).await.expect_err("refused");
    assert!(matches!(error, weft_node::Error::InUse(_)), "{error}");
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    cluster.create("image", json!({"containers": [{"name": "c", "image": "busybox"}]})).await;
    cluster.create("absent", json!({"containers": [{"name": "c", "image": "host", "command": ["/no/such/program"]}], "restartPolicy": "Never"})).await;
    cluster
        .create(
            "config",
            json!({"containers": [{"name": "c", "image": "host", "command": ["true"],
            "envFrom": [{"configMapRef": {"name": "none"}}]}]}),
        )
        .await;
    let waiting = |pod: &Value| container(pod)["state"]["waiting"].clone();
    let pod = cluster.wait("image", "refused", |pod| waiting(pod)["reason"] == "CreateContainerError").await;
    assert!(waiting(&pod)["message"].as_str().is_some_and(|text| text.contains("busybox")), "{pod:#}");
    let pod = cluster.wait("absent", "failed", |pod| pod["status"]["phase"] == "Failed").await;
    let terminated = &container(&pod)["state"]["terminated"];
    assert_eq!((&terminated["reason"], &terminated["exitCode"]), (&json!("StartError"), &json!(128)));
    let pod =
        cluster.wait("config", "refused", |pod| waiting(pod)["reason"] == "CreateContainerConfigError").await;
    assert!(waiting(&pod)["message"].as_str().is_some_and(|text| text.contains("none")), "{pod:#}");
    cluster.wait_event("Failed").await;
    agent.stop(StopMode::Drain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_whose_supervisor_is_killed_is_buried_and_started_again() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    let marker = marker(cluster.directory.path());
    let script = format!(": {marker}; while :; do sleep 0.1; done");
    cluster
        .create("p", json!({"containers": [shell("main", &script)], "terminationGracePeriodSeconds": 1}))
        .await;
    cluster.wait_ready("p").await;
    let directory = cluster.directory.path().to_str().expect("a path").to_owned();
    let shims = processes(&format!("shim {directory}"));
    assert_eq!(shims.len(), 1);
    let kill = std::process::Command::new("kill").args(["-9", &shims[0].to_string()]).status().expect("kill");
    assert!(kill.success());
    let pod = cluster
        .wait("p", "restarted", |pod| {
            container(pod)["restartCount"] == 1 && condition(pod, "Ready") == Some("True")
        })
        .await;
    assert_eq!(container(&pod)["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(processes(&marker).len(), 1, "the first instance is not left running");
    agent.stop(StopMode::Drain).await;
    wait_no_processes(&marker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_limit_holds_where_control_groups_can_be_written() {
    let writable = ["/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/cgroup.procs"]
        .iter()
        .any(|file| std::fs::OpenOptions::new().write(true).open(file).is_ok());
    if !writable {
        weft_tests::record::skip(
            "a_memory_limit_holds_where_control_groups_can_be_written",
            "they cannot be written",
        );
        return;
    }
    let cluster = Cluster::start().await;
    let agent = cluster.agent(PROCESS).await;
    let mut main = shell("main", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    main["resources"] = json!({"limits": {"memory": "32Mi", "cpu": "500m"}});
    cluster.create("greedy", json!({"containers": [main], "restartPolicy": "Never"})).await;
    let pod = cluster.wait("greedy", "failed", |pod| pod["status"]["phase"] == "Failed").await;
    // The shell sees its child killed and reports that; the kernel's own count tells why.
    let code = container(&pod)["state"]["terminated"]["exitCode"].clone();
    assert_eq!(code, 137, "{pod:#}");
    assert_eq!(container(&pod)["state"]["terminated"]["reason"], "OOMKilled");
    agent.stop(StopMode::Drain).await;
}
