//! 6: the kubectl lines of the README with every kubectl that is installed, and the same manifest with Python.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use weft_tests::{
    cluster::{Cluster, Runtime},
    kubectl::{self, Kubectl},
    measured, need, process, python, serial,
    wait::{LONG, wait_for},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_installed_kubectl_does_its_daily_work() -> anyhow::Result<()> {
    let _serial = serial().await;
    let binaries = need!("every_installed_kubectl_does_its_daily_work", kubectl::find_all());
    let cluster = Cluster::up(Runtime::Process, true).await?;
    for binary in binaries {
        let kubectl = Kubectl::new(&binary, &cluster.kubeconfig());
        let started = Instant::now();
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        daily_work(&kubectl).await.with_context(|| format!("with {}", binary.display()))?;
        measured!("{name}: daily work done in {:.1} s", started.elapsed().as_secs_f64());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_client_applies_the_same_manifest() -> anyhow::Result<()> {
    let _serial = serial().await;
    let python = need!("the_official_python_client", python::find("kubernetes").await);
    let cluster = Cluster::up(Runtime::Process, false).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/apply.py");
    let output =
        process::run(Command::new(python).arg(script).arg(cluster.kubeconfig()).arg(manifest())).await?;
    println!("{}", output.trim());
    Ok(())
}

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/echo.yaml")
}

async fn daily_work(kubectl: &Kubectl) -> anyhow::Result<()> {
    look(kubectl).await?;
    roll_out(kubectl).await?;
    replace_a_pod(kubectl).await?;
    apply_and_change(kubectl).await?;
    create_by_verb(kubectl).await
}

/// The tables and texts.
async fn look(kubectl: &Kubectl) -> anyhow::Result<()> {
    let all =
        kubectl.run(&["get", "nodes,deployments,pods,services,endpointslices", "-A", "-o", "wide"]).await?;
    for columns in [
        &["NAME", "STATUS", "ROLES", "AGE", "VERSION", "INTERNAL-IP"][..],
        &["NAMESPACE", "NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"],
        &["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"],
        &["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"],
        &["NAMESPACE", "NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"],
    ] {
        let holds =
            |line: &str| columns.iter().all(|column| line.split_whitespace().any(|word| word == *column));
        ensure!(all.lines().any(holds), "no table has the columns {columns:?}:\n{all}");
    }
    let pod = first_pod(kubectl, "app=web").await?;
    let described = kubectl.run(&["describe", "pod", &pod]).await?;
    for text in ["Image:", "weft.dev/demo", "Readiness:", "Ready", "Events:"] {
        ensure!(described.contains(text), "describe pod lacks {text:?}:\n{described}");
    }
    for kind in ["node", "deployment/web", "service/web"] {
        ensure!(kubectl.run(&["describe", kind]).await?.contains("Name:"), "describe {kind}");
    }
    ensure!(kubectl.run(&["explain", "deployment.spec.replicas"]).await?.contains("integer"), "explain");
    ensure!(kubectl.run(&["api-resources"]).await?.contains("endpointslices"), "api-resources");
    ensure!(kubectl.run(&["version"]).await?.contains("v1."), "version");
    ensure!(kubectl.run(&["auth", "can-i", "create", "pods"]).await?.trim() == "yes", "auth can-i");
    ensure!(
        kubectl.run(&["logs", "deploy/client"]).await?.contains("client calls web"),
        "logs of a deployment"
    );
    wait_for("kubectl top pods", LONG, || async {
        let output = kubectl.output(&["top", "pods"]).await?;
        let text = process::text(&output);
        Ok(if output.status.success() && text.contains(&pod) { Ok(()) } else { Err(text) })
    })
    .await?;
    ensure!(kubectl.run(&["top", "nodes"]).await?.contains("CPU"), "top nodes");
    Ok(())
}

/// Scaling, a rolling update, its history and its way back.
async fn roll_out(kubectl: &Kubectl) -> anyhow::Result<()> {
    let rollout = ["rollout", "status", "deployment", "web", "--timeout=60s"];
    kubectl.run(&["scale", "deployment", "web", "--replicas", "4"]).await?;
    ensure!(kubectl.run(&rollout).await?.contains("successfully rolled out"), "rollout status");
    kubectl.run(&["set", "env", "deployment", "web", "GREETING=hello"]).await?;
    kubectl.run(&rollout).await?;
    ensure!(kubectl.run(&["rollout", "history", "deployment", "web"]).await?.contains("REVISION"), "history");
    kubectl.run(&["rollout", "undo", "deployment", "web"]).await?;
    kubectl.run(&rollout).await?;
    kubectl.run(&["rollout", "restart", "deployment", "web"]).await?;
    kubectl.run(&rollout).await?;
    kubectl.run(&["scale", "deployment", "web", "--replicas", "3"]).await?;
    kubectl.run(&rollout).await?;
    Ok(())
}

async fn replace_a_pod(kubectl: &Kubectl) -> anyhow::Result<()> {
    let pod = first_pod(kubectl, "app=api").await?;
    kubectl.run(&["delete", "pod", &pod]).await?;
    kubectl.run(&["rollout", "status", "deployment", "api", "--timeout=60s"]).await?;
    kubectl.run(&["wait", "--for=condition=Available", "deployment/api", "--timeout=60s"]).await?;
    let gone = kubectl.output(&["get", "pod", &pod]).await?;
    ensure!(process::text(&gone).contains("NotFound"), "{}", process::text(&gone));
    Ok(())
}

/// `kubectl apply`, again, with a change, and away.
async fn apply_and_change(kubectl: &Kubectl) -> anyhow::Result<()> {
    let path = manifest();
    let file = path.to_str().context("the path is text")?;
    ensure!(kubectl.run(&["apply", "-f", file]).await?.contains("deployment.apps/echo created"), "apply");
    ensure!(
        kubectl.run(&["apply", "-f", file]).await?.contains("deployment.apps/echo unchanged"),
        "apply again"
    );
    kubectl.run(&["rollout", "status", "deployment", "echo", "--timeout=60s"]).await?;
    let text = std::fs::read_to_string(&path)?.replace("replicas: 2", "replicas: 1");
    let diff = kubectl.output_with_input(&["diff", "-f", "-"], &text).await?;
    ensure!(
        diff.status.code() == Some(1) && process::text(&diff).contains("replicas: 1"),
        "{}",
        process::text(&diff)
    );
    let changed = kubectl.output_with_input(&["apply", "-f", "-"], &text).await?;
    ensure!(
        process::text(&changed).contains("deployment.apps/echo configured"),
        "{}",
        process::text(&changed)
    );
    kubectl.run(&["rollout", "status", "deployment", "echo", "--timeout=60s"]).await?;
    kubectl.run(&["label", "deployment", "echo", "tier=test"]).await?;
    kubectl.run(&["annotate", "deployment", "echo", "note=x"]).await?;
    let patch = r#"[{"op":"replace","path":"/spec/replicas","value":2}]"#;
    kubectl.run(&["patch", "deployment", "echo", "--type=json", "-p", patch]).await?;
    let names = kubectl.run(&["get", "deployments", "-l", "tier=test", "-o", "name"]).await?;
    ensure!(names.trim() == "deployment.apps/echo", "{names}");
    kubectl.run(&["delete", "-f", file]).await?;
    wait_for("the pods of echo are gone", LONG, || async {
        let left = kubectl.run(&["get", "pods", "-l", "app=echo", "-o", "name"]).await?;
        Ok(if left.trim().is_empty() { Ok(()) } else { Err(left) })
    })
    .await
}

/// The verbs with which kubectl 1.32 and newer send protobuf. In the process runtime a command is a program of the host,
/// whatever the image.
async fn create_by_verb(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.run(&["create", "namespace", "by-verb"]).await?;
    let within = ["-n", "by-verb"];
    for create in [
        &["create", "configmap", "settings", "--from-literal=a=b"][..],
        &["create", "secret", "generic", "password", "--from-literal=p=w"],
        &["create", "serviceaccount", "robot"],
        &["create", "deployment", "made", "--image=any", "--replicas=1", "--", "sleep", "3600"],
        &["create", "job", "once", "--image=any", "--", "sleep", "0"],
        &["expose", "deployment", "made", "--port=80", "--target-port=8080"],
    ] {
        kubectl.run(&[&within, create].concat()).await?;
    }
    let wait = ["wait", "--for=condition=complete", "job/once", "--timeout=60s"];
    kubectl.run(&[&within[..], &wait].concat()).await?;
    let map = kubectl.json(&[&within[..], &["get", "configmap", "settings"]].concat()).await?;
    ensure!(map["data"]["a"] == "b", "{map}");
    kubectl.run(&["delete", "namespace", "by-verb", "--timeout=60s"]).await?;
    Ok(())
}

async fn first_pod(kubectl: &Kubectl, selector: &str) -> anyhow::Result<String> {
    kubectl.run(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}"]).await
}
