//! 8: bad input gets a clear error that names the field, and changes nothing.

use std::process::Output;

use anyhow::{Context as _, ensure};
use http::{Request, header};
use kube::{Client, client::Body};
use tokio::process::Command;
use weft_tests::{
    cluster::{Cluster, Runtime, weft_binary},
    kubectl::{self, Kubectl},
    need, process, serial,
};

/// A Deployment with one field replaced.
fn deployment(replicas: &str, extra: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: bad}}\nspec:\n  replicas: {replicas}\n  {extra}\n  \
         selector: {{matchLabels: {{app: bad}}}}\n  template:\n    metadata: {{labels: {{app: bad}}}}\n    \
         spec: {{containers: [{{name: c, image: weft.dev/demo}}]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_is_told_which_field_is_wrong() -> anyhow::Result<()> {
    let _serial = serial().await;
    let binary = need!("bad_input: kubectl", kubectl::find());
    let cluster = Cluster::up(Runtime::Process, false).await?;
    let kubectl = Kubectl::new(&binary, &cluster.kubeconfig());

    // kubectl's own check reads our OpenAPI; without it the server must find out, strictly or with a warning.
    let unknown = deployment("1", "replicass: 3");
    refused(&kubectl.output_with_input(&["create", "-f", "-"], &unknown).await?, &["replicass"])?;
    // Since 1.25 kubectl lets the server check, and there are three levels; before, one could only switch it off.
    let levels = kubectl.run(&["create", "--help"]).await?.contains("strict");
    if levels {
        let strict = kubectl.output_with_input(&["create", "--validate=strict", "-f", "-"], &unknown).await?;
        refused(&strict, &["replicass"])?;
    }
    let lenient = if levels { "--validate=warn" } else { "--validate=false" };
    let warned = kubectl.output_with_input(&["create", lenient, "-f", "-"], &unknown).await?;
    let text = process::text(&warned);
    ensure!(warned.status.success() && text.contains("replicass"), "a warning, and it is created: {text}");
    kubectl.run(&["delete", "deployment", "bad"]).await?;

    for (what, manifest, names) in [
        ("a wrong type", deployment("three", ""), &["replicas"][..]),
        ("a negative number", deployment("-1", ""), &["spec.replicas"]),
        (
            "an unknown kind",
            "apiVersion: apps/v1\nkind: Deploymint\nmetadata: {name: bad}\n".to_owned(),
            &["Deploymint"],
        ),
        (
            "a missing field",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: []}\n".to_owned(),
            &["spec.containers"],
        ),
        (
            "a bad name",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n".to_owned(),
            &["metadata.name"],
        ),
    ] {
        let output = kubectl.output_with_input(&["create", "-f", "-"], &manifest).await?;
        refused(&output, names).context(what)?;
    }
    let left = kubectl
        .run(&["get", "deployments,pods,configmaps", "--field-selector=metadata.name=bad", "-o", "name"])
        .await?;
    ensure!(left.trim().is_empty(), "something was created: {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_answers_with_a_status_that_says_what_is_wrong() -> anyhow::Result<()> {
    let _serial = serial().await;
    let cluster = Cluster::up(Runtime::Process, false).await?;
    let client = cluster.client().await?;
    let maps = "/api/v1/namespaces/default/configmaps";
    let strict = format!("{maps}?fieldValidation=Strict");
    let map = |field: &str| {
        format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"bad"}},{field}}}"#)
    };
    let huge = map(&format!(r#""data":{{"a":"{}"}}"#, "x".repeat(4 * 1024 * 1024)));
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    for (what, path, content_type, body, code, says) in [
        ("broken JSON", maps, "application/json", r#"{"kind": "ConfigMap", "#.to_owned(), 400, ""),
        ("deep JSON", maps, "application/json", map(&format!(r#""data":{deep}"#)), 400, ""),
        ("an unknown field", &strict, "application/json", map(r#""date":{}"#), 400, "date"),
        ("a duplicate field", &strict, "application/json", map(r#""data":{"a":"1"},"data":{}"#), 400, "data"),
        ("a wrong type", maps, "application/json", map(r#""data":["a"]"#), 400, "data"),
        ("a huge body", maps, "application/json", huge, 413, ""),
        ("an unknown media type", maps, "text/csv", "a,b".to_owned(), 415, ""),
        (
            "an unknown kind",
            "/apis/apps/v1/namespaces/default/deploymints",
            "application/json",
            map(""),
            404,
            "",
        ),
        (
            "a namespace that is not there",
            "/api/v1/namespaces/nowhere/configmaps",
            "application/json",
            map(r#""data":{}"#),
            404,
            "nowhere",
        ),
    ] {
        let request =
            Request::post(path).header(header::CONTENT_TYPE, content_type).body(body.into_bytes())?;
        let status = failure(&client, request).await.context(what)?;
        ensure!(
            status.code == code && status.message.contains(says),
            "{what}: {} {}",
            status.code,
            status.message
        );
        println!("{what}: {} {}", status.code, status.message.chars().take(160).collect::<String>());
    }
    let left = client
        .request_text(Request::get(format!("{maps}?fieldSelector=metadata.name%3Dbad")).body(vec![])?)
        .await?;
    ensure!(!left.contains(r#""name":"bad""#), "something was created: {left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_unknown_or_expired_are_turned_away() -> anyhow::Result<()> {
    let _serial = serial().await;
    let binary = need!("bad_input: tokens", kubectl::find());
    let cluster = Cluster::up(Runtime::Process, false).await?;
    // The server made the file, with an administrator's token in it, and reads it again when it changes.
    let tokens = cluster.data_dir().join("tokens.csv");
    let mut text = std::fs::read_to_string(&tokens)?;
    text.push_str("good-token,robot,1,weft:administrators\n");
    text.push_str("old-token,robot,1,weft:administrators,2020-01-01T00:00:00Z\n");
    std::fs::write(&tokens, text)?;
    let kubectl = Kubectl::new(&binary, &cluster.kubeconfig());
    let view = kubectl.json(&["config", "view", "--raw"]).await?;
    let server = view["clusters"][0]["cluster"]["server"].as_str().context("a server")?.to_owned();

    // With a kubeconfig that holds no client certificate: it would be the better credential.
    let bare = cluster.data_dir().join("bare-kubeconfig");
    std::fs::write(&bare, "apiVersion: v1\nkind: Config\n")?;
    let bare = Kubectl::new(&binary, &bare);
    for (token, welcome) in [("good-token", true), ("old-token", false), ("no-such-token", false)] {
        let token = format!("--token={token}");
        let output =
            bare.output(&["get", "pods", "--server", &server, "--insecure-skip-tls-verify", &token]).await?;
        let text = process::text(&output);
        ensure!(output.status.success() == welcome, "{token}: {text}");
        ensure!(welcome || text.contains("Unauthorized") || text.contains("logged in"), "{token}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bootstrap_with_an_unknown_filter_is_refused_by_name() -> anyhow::Result<()> {
    let bootstrap = r#"
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: []}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;
    let proxy = |text: String| async move {
        let mut command = Command::new(weft_binary()?);
        command.args(["proxy", "--mode", "validate", "--config-yaml", &text]);
        process::output(&mut command).await
    };
    let valid = proxy(bootstrap.to_owned()).await?;
    ensure!(valid.status.success(), "without the mistakes it is valid: {}", process::text(&valid));
    for (right, wrong, names) in [
        // A filter that nobody knows, one that Envoy has and we do not, and a misspelt field.
        ("http.router.v3.Router", "http.weave.v3.Weave", ["http_filters[0]", "weave"]),
        ("http.router.v3.Router", "http.lua.v3.Lua", ["http_filters[0]", "lua"]),
        ("stat_prefix", "stat_prefixx", ["filters[0]", "stat_prefixx"]),
    ] {
        refused(&proxy(bootstrap.replace(right, wrong)).await?, &names)?;
    }
    Ok(())
}

fn refused(output: &Output, names: &[&str]) -> anyhow::Result<()> {
    let text = process::text(output);
    println!("refused: {}", text.trim());
    ensure!(!output.status.success(), "it was accepted: {text}");
    for name in names {
        ensure!(text.contains(name), "the error does not name {name:?}: {text}");
    }
    Ok(())
}

/// The Status with which the server refuses `request`.
async fn failure(client: &Client, request: Request<Vec<u8>>) -> anyhow::Result<kube::core::Status> {
    let response = client.send(request.map(Body::from)).await?;
    let code = response.status().as_u16();
    let body = response.into_body().collect_bytes().await?;
    let status: kube::core::Status = serde_json::from_slice(&body)
        .with_context(|| format!("{code} without a Status: {}", String::from_utf8_lossy(&body)))?;
    ensure!(status.is_failure() && status.code == code, "{code} with another Status: {status:?}");
    Ok(status)
}
