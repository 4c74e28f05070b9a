//! A Deployment whose pods tell their names, and the proxies through which tests call it.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weft_api::mesh::outbound_port;
use weft_tests::{
    kubectl::Kubectl,
    process::text,
    wait::{LONG, wait_for},
};

/// Its name, as that of its service.
pub(crate) const ECHO: &str = "echo";

/// The demo's `api` answers `{"pod": NAME}` by itself.
const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 10
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
        - name: echo
          image: weft.dev/demo
          args: [api]
          env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
          resources: {requests: {cpu: 10m, memory: 8Mi}}
"#;

/// Makes the Deployment and waits until its 10 replicas are available.
pub(crate) async fn deploy(kubectl: &Kubectl) -> anyhow::Result<()> {
    apply(kubectl, MANIFEST).await?;
    settled(kubectl, 10).await.map(drop)
}

/// Makes what another manifest says.
pub(crate) async fn apply(kubectl: &Kubectl, manifest: &str) -> anyhow::Result<()> {
    let applied = kubectl.output_with_input(&["apply", "-f", "-"], manifest).await?;
    ensure!(applied.status.success(), "kubectl apply: {}", text(&applied));
    Ok(())
}

/// Changes the number of replicas, and does not wait.
pub(crate) async fn scale(kubectl: &Kubectl, replicas: usize) -> anyhow::Result<()> {
    kubectl.run(&["scale", "deployment", ECHO, "--replicas", &replicas.to_string()]).await.map(drop)
}

/// Waits until it has as many pods, all of them ready and none on its way out; gives their names.
pub(crate) async fn settled(kubectl: &Kubectl, replicas: usize) -> anyhow::Result<BTreeSet<String>> {
    wait_for(&format!("{ECHO} has {replicas} ready pods"), LONG, || async {
        let list = kubectl.json(&["get", "pods", "-l", "app=echo"]).await?;
        let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let leaving = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string()).count();
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned);
        let all = (pods.len(), ready, leaving) == (replicas, replicas, 0);
        Ok(if all {
            Ok(names.collect())
        } else {
            Err(format!("{ready} ready of {}, {leaving} leave", pods.len()))
        })
    })
    .await
}

/// Where a gateway that listens at `address` has the service.
pub(crate) async fn at(kubectl: &Kubectl, address: Ipv4Addr) -> anyhow::Result<String> {
    let ip = kubectl.run(&["get", "service", ECHO, "-o", "jsonpath={.spec.clusterIP}"]).await?;
    let ip: Ipv4Addr = ip.trim().parse().with_context(|| format!("not an address: {ip:?}"))?;
    Ok(SocketAddr::from((address, outbound_port(ip, 0))).to_string())
}

/// The token that the API server gives for this TokenRequest of the service account `default`. (`kubectl create token` does
/// the same, but not every kubectl has that.)
pub(crate) async fn token(kubectl: &Kubectl, audience: &str, bound: &Value) -> anyhow::Result<String> {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound},
    });
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer =
        kubectl.output_with_input(&["create", "--raw", path, "-f", "-"], &request.to_string()).await?;
    ensure!(answer.status.success(), "no token: {}", text(&answer));
    let answer: Value = serde_json::from_slice(&answer.stdout).context("the token came as no JSON")?;
    answer["status"]["token"].as_str().map(str::to_owned).with_context(|| format!("no token in {answer}"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
