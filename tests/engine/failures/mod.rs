//! What users see when backends fail: the `weft-proxy` binary before real servers, under constant load.
//!
//! Each test says what a user expects and counts: how many of so many requests failed, who got how many, and whether the
//! metrics say the same. No test measures a time; each waits for what it needs. Requests leave at a fixed rate whatever
//! becomes of them, as those of many independent clients do.

mod backend;
mod endpoints;
mod groups;
mod limits;
mod load;
mod names;
mod updates;

use std::net::SocketAddr;

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::{bootstrap::Bootstrap, proxy::Proxy};

/// What most people configure for requests that may be repeated.
const RETRY_ON: &str = "5xx,reset,connect-failure";

/// A listener `front` whose requests go to the cluster `up`; with fields of the retry policy and of the cluster.
async fn proxy(endpoints: &[SocketAddr], retry: Value, cluster: Value) -> anyhow::Result<Proxy> {
    Proxy::start(
        Bootstrap::default()
            .http_routes("front", route("up", retry), json!({}))
            .cluster("up", endpoints, cluster),
    )
    .await
}

/// Everything to one cluster.
fn route(cluster: &str, retry: Value) -> Value {
    let mut route = json!({"cluster": cluster, "timeout": "15s"});
    if !retry.is_null() {
        route["retry_policy"] = retry;
    }
    json!([{"match": {"prefix": "/"}, "route": route}])
}

/// The counter or gauge of a cluster.
async fn metric(proxy: &Proxy, name: &str) -> anyhow::Result<usize> {
    Ok(proxy.metric(&format!("envoy_cluster_{name}"), "\"up\"").await?.round() as usize)
}

/// What is always so: all that came was answered, and nothing is under way any more.
async fn settles(proxy: &Proxy, requests: usize) -> anyhow::Result<()> {
    proxy.metric_becomes("envoy_cluster_upstream_rq_active", "\"up\"", 0.0).await?;
    proxy.metric_becomes("envoy_http_downstream_rq_active", "front", 0.0).await?;
    let (total, completed) =
        (metric(proxy, "upstream_rq_total").await?, metric(proxy, "upstream_rq_completed").await?);
    ensure!(total == completed, "{total} began and {completed} ended");
    let came = proxy.metric("envoy_http_downstream_rq_total", "front").await?.round() as usize;
    ensure!(came == requests, "{requests} were sent and {came} came");
    Ok(())
}
