//! The parts fit together: a request goes through, a drain ends the process, and nothing is left counted.

use anyhow::ensure;
use serde_json::json;
use weft_tests::{bootstrap::Bootstrap, http, proxy::Proxy, upstream::Upstream};

#[tokio::test]
async fn a_request_goes_through_and_every_gauge_returns_to_zero() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let bootstrap =
        Bootstrap::default().http("front", "up", json!({})).cluster("up", &[upstream.address], json!({}));
    let proxy = Proxy::start(bootstrap).await?;
    let (status, body) = http::get(&format!("{}/bytes/5000", proxy.url("front")?)).await?;
    ensure!(status == 200 && body.len() == 5000, "{status}: {} bytes", body.len());
    ensure!(upstream.last()?.target == "/bytes/5000", "{:?}", upstream.last());
    proxy.metric_becomes("envoy_http_downstream_rq_active", "front", 0.0).await?;
    proxy.metric_becomes("envoy_http_downstream_cx_active", "front", 0.0).await?;
    proxy.metric_becomes("envoy_cluster_upstream_rq_active", "up", 0.0).await?;
    ensure!(proxy.metric("envoy_http_downstream_rq_total", "front").await? == 1.0);
    proxy.finish().await
}

#[tokio::test]
async fn told_to_end_the_process_ends_by_itself() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let bootstrap = Bootstrap::default().tcp("relay", "up").cluster("up", &[upstream.address], json!({}));
    let proxy = Proxy::start(bootstrap).await?;
    let (status, _) = http::get(&format!("{}/status/204", proxy.url("relay")?)).await?;
    ensure!(status == 204, "{status}");
    let took = proxy.drain().await?;
    ensure!(took.as_secs() < 5, "with no connection left it waited {took:?}");
    Ok(())
}
