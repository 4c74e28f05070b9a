//! A control plane that is polled: sovereign, as it comes from PyPI.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weft_tests::{
    bootstrap::Bootstrap,
    http::Sampler,
    need,
    proxy::Proxy,
    python::{self, Script},
    upstream::Upstream,
};

use super::{arrive, cluster_from, endpoints, listener_from, routes};

fn polled() -> Value {
    json!({"resource_api_version": "V3", "api_config_source": {
        "api_type": "REST",
        "transport_api_version": "V3",
        "cluster_names": ["sovereign"],
        "refresh_delay": "0.2s",
        "request_timeout": "10s",
    }})
}

/// Has the control plane know these, from its next request on.
fn write(directory: &Path, kind: &str, resources: &[Value]) -> anyhow::Result<()> {
    let new = directory.join("new");
    fs::write(&new, json!(resources).to_string()).context("cannot write resources")?;
    fs::rename(&new, directory.join(format!("{kind}.json"))).context("cannot put resources in place")
}

#[tokio::test]
async fn a_control_plane_that_is_polled_drives_the_proxy() -> anyhow::Result<()> {
    let installed = "uvicorn; import importlib.metadata; importlib.metadata.version('sovereign')";
    let python = need!("foreign: sovereign", python::find(installed).await);
    let (upstream, other) = (Upstream::start().await?, Upstream::start().await?);
    let directory = tempfile::tempdir()?;
    let world = directory.path();
    let source = polled();
    let first = endpoints("up", &[upstream.address]);
    write(world, "clusters", &[cluster_from("up", &source)])?;
    write(world, "endpoints", std::slice::from_ref(&first))?;
    write(world, "listeners", &[listener_from("front", &source)])?;
    write(world, "routes", &[routes("front", "up")])?;
    let folder = world.to_str().context("a path that is text")?;
    let (mut sovereign, address) = Script::server(&python, "sovereign_server.py", &[folder]).await?;
    let bootstrap = Bootstrap::default()
        .cluster("sovereign", &[address], json!({}))
        .dynamic(json!({"cds_config": source, "lds_config": source}));
    let proxy = Proxy::start(bootstrap).await?;
    let load = Sampler::start(&proxy.at("front")?.to_string(), 2, Duration::from_millis(5));
    arrive(&upstream, 10).await?;
    // Nothing changed, and it says so.
    while !sovereign.line().await?.starts_with("/v3/discovery:clusters 304 ") {}

    write(world, "endpoints", &[first, endpoints("other", &[other.address])])?;
    write(world, "clusters", &[cluster_from("up", &source), cluster_from("other", &source)])?;
    proxy.metric_becomes("envoy_cluster_membership_total", "\"other\"", 1.0).await?;
    write(world, "routes", &[routes("front", "other")])?;
    arrive(&other, 10).await?;

    // One that cannot be used changes nothing but itself.
    let mut bad = cluster_from("bad", &source);
    bad["connect_timeout"] = json!("-1s");
    write(world, "clusters", &[cluster_from("other", &source), bad])?;
    proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", 0.0).await?;
    ensure!(proxy.metric("envoy_cluster_manager_cds_update_rejected", "").await? >= 1.0);

    // Without it the last configuration serves on.
    drop(sovereign);
    let so_far = other.requests();
    arrive(&other, so_far + 100).await?;
    let (failed, all, some) = load.failures();
    ensure!(failed == 0, "{failed} of {all} requests failed: {some:?}\n{}", proxy.log());
    drop(load);
    proxy.finish().await
}
