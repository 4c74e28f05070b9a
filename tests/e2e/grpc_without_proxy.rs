//! xDS: gRPC's own resolver is a client of our control service, with no proxy beside it.

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weft_tests::{
    cluster::{Cluster, Runtime},
    kubectl, measured, need,
    python::{self, Script},
    serial,
    xds_client::Control,
};

use crate::echo;

/// What a user of gRPC would dial, by name.
const TARGETS: [&str; 3] =
    ["xds:///echo.default.svc.cluster.local:50051", "xds:///echo.default:50051", "xds:///echo"];

/// $PYTHON and $SCRIPT stand for the interpreter and the server that it runs.
const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: echo, annotations: {weft.dev/balancer: peak-ewma}}
spec:
  selector: {app: echo}
  ports: [{name: grpc, port: 50051, targetPort: 50051}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 3
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers:
        - name: echo
          image: host/python
          command: [$PYTHON, $SCRIPT, "50051"]
          env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
          ports: [{name: grpc, containerPort: 50051}]
          readinessProbe: {tcpSocket: {port: grpc}, periodSeconds: 1}
          resources: {requests: {cpu: 10m, memory: 16Mi}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn grpc_balances_over_live_replicas_and_follows_them() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "grpc_without_proxy";
    let python = need!(test, python::find("grpc").await);
    need!(test, kubectl::find());
    let cluster = Cluster::up(Runtime::Process, false).await?;
    let kubectl = cluster.kubectl()?;
    let script = python::path("grpc_pod.py");
    let manifest =
        MANIFEST.replace("$PYTHON", &python.to_string_lossy()).replace("$SCRIPT", &script.to_string_lossy());
    echo::apply(&kubectl, &manifest).await?;
    echo::settled(&kubectl, 3).await?;

    let directory = tempfile::tempdir()?;
    let bootstrap = directory.path().join("bootstrap.json");
    let token = directory.path().join("token");
    std::fs::write(&token, echo::token(&kubectl, "weft-xds", &Value::Null).await?)?;
    let authority = cluster.data_dir().join("pki/ca.crt");
    write_bootstrap(&bootstrap, Control::of(&cluster)?.address, &authority, &token)?;
    let bootstrap = bootstrap.to_string_lossy();
    let mut clients = Vec::new();
    for target in TARGETS {
        let variables = [
            ("GRPC_XDS_BOOTSTRAP", bootstrap.as_ref()),
            ("GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS", "true"),
        ];
        clients.push((target, Script::start_with(&python, "grpc_xds_client.py", &[target], &variables)?));
    }
    for replicas in [3, 6, 2, 4] {
        echo::scale(&kubectl, replicas).await?;
        let there = echo::settled(&kubectl, replicas).await?;
        for (target, client) in &mut clients {
            // What came before this answer may be from pods that are gone now.
            report(client).await?;
            let mut seen = BTreeSet::new();
            let mut tries = 0;
            while seen != there {
                tries += 1;
                ensure!(tries < 600, "{target} calls {seen:?}, there are {there:?}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                seen.extend(pods(&report(client).await?)?);
                ensure!(seen.is_subset(&there), "{target} calls pods that are gone: {seen:?}, not {there:?}");
            }
        }
    }
    for (target, client) in &mut clients {
        let report = report(client).await?;
        measured!("gRPC without a proxy, {target}: {} of {} calls failed", report["failed"], report["calls"]);
        ensure!(report["failed"] == 0, "{target}: {report}");
    }
    Ok(())
}

fn write_bootstrap(path: &Path, control: SocketAddr, authority: &Path, token: &Path) -> anyhow::Result<()> {
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": control.to_string(),
            "channel_creds": [{"type": "tls", "config": {"ca_certificate_file": authority}}],
            "call_creds": [{"type": "jwt_token_file", "config": {"jwt_token_file": token}}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": "grpc~default~client"},
    });
    std::fs::write(path, bootstrap.to_string()).context("cannot write the bootstrap")
}

async fn report(client: &mut Script) -> anyhow::Result<Value> {
    client.tell("report").await?;
    serde_json::from_str(&client.line().await?).context("the client gave no JSON")
}

fn pods(report: &Value) -> anyhow::Result<Vec<String>> {
    let pods = report["pods"].as_object().with_context(|| format!("no pods in {report}"))?;
    Ok(pods.keys().cloned().collect())
}
