//! What every control plane does.

use anyhow::ensure;
use serde_json::json;
use weft_tests::{need, proxy::Proxy, wait};

use super::{Driven, VARIANTS, cluster, control::Control, endpoints, listener, routes};

/// An operator expects: the sidecar goes where Envoy went, with the control plane that there is.
#[tokio::test]
async fn a_control_plane_that_is_not_ours_drives_the_proxy() -> anyhow::Result<()> {
    need!("foreign: drives", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        let first = driven.control.first_request().await?;
        ensure!(first["node"]["id"] == "test" && first["type"] == "cds", "{first}");
        let features = first["node"]["client_features"].to_string();
        ensure!(features.contains("xds.config.supports-resource-ttl"), "{first}");
        ensure!(!features.contains("overprovisioning"), "{first}");
        ensure!(first["node"]["user_agent_name"] == "weft-proxy", "{first}");
        driven.add_other("2").await?;
        driven.route_to_other("2").await?;
        // The first endpoint of the first cluster goes after it.
        driven.control.set("cds", "3", &[cluster("other")]).await?;
        driven.proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", 0.0).await?;
        let again = driven.control.event("an acknowledgement", |event| event["first"] == false).await?;
        ensure!(again.get("node").is_none() && again.get("error_detail").is_none(), "{again}");
        driven.finish().await?;
    }
    Ok(())
}

/// Clusters come and go faster than anybody answers, so that every answer is to something that is past.
#[tokio::test]
async fn subscriptions_end_where_the_last_update_left_them() -> anyhow::Result<()> {
    need!("foreign: races", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        driven.add_other("2").await?;
        for round in 0..30 {
            let version = format!("r{round}");
            let mut clusters = vec![cluster("up")];
            clusters.extend((round % 2 == 1).then(|| cluster("other")));
            driven.control.set("cds", &version, &clusters).await?;
        }
        // Something that tells the end from what was before.
        driven.control.set("cds", "3", &[cluster("up"), cluster("other"), cluster("last")]).await?;
        let all = ["up", "other", "last"].map(|name| endpoints(name, &[driven.other.address]));
        driven.control.set("eds", "3", &all).await?;
        driven.proxy.metric_becomes("envoy_cluster_membership_total", "\"last\"", 1.0).await?;
        driven.route_to_other("2").await?;
        driven.finish().await?;
    }
    Ok(())
}

/// A control plane that has nothing to say yet says that.
#[tokio::test]
async fn an_empty_world_is_a_start_and_an_end() -> anyhow::Result<()> {
    need!("foreign: empty", Control::python().await);
    for variant in VARIANTS {
        let mut control = Control::start().await?;
        control.set("cds", "1", &[]).await?;
        control.set("lds", "1", &[]).await?;
        // Ready is what `start` waits for.
        let proxy = Proxy::start(control.bootstrap(variant, &json!({}))).await?;
        control.set("cds", "2", &[cluster("up")]).await?;
        control.set("eds", "2", &[endpoints("up", &[control.address])]).await?;
        proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", 1.0).await?;
        // An empty answer is that there are none in one variant, and that nothing changed in the other one.
        control.raw("empty", json!({"type": "cds", "version": "3", "resources": []})).await?;
        let left = if variant == "GRPC" { 0.0 } else { 1.0 };
        proxy.metric_becomes("envoy_cluster_membership_total", "\"up\"", left).await?;
        proxy.finish().await?;
    }
    Ok(())
}

/// A control plane that thinks for long, and opens no stream before it knows: not even headers come.
#[tokio::test]
async fn a_server_that_says_nothing_is_done_without_and_heard_later() -> anyhow::Result<()> {
    need!("foreign: slow", Control::python().await);
    for variant in VARIANTS {
        let mut control = Control::start().await?;
        let proxy = Proxy::start(control.bootstrap(variant, &json!({"initial_fetch_timeout": "1s"}))).await?;
        let upstream = weft_tests::upstream::Upstream::start().await?;
        control.set("cds", "1", &[cluster("up")]).await?;
        control.set("eds", "1", &[endpoints("up", &[upstream.address])]).await?;
        control.set("rds", "1", &[routes("front", "up")]).await?;
        control.set("lds", "1", &[listener("front")]).await?;
        let listeners = || async {
            let (_, text) = proxy.admin("GET", "/listeners").await?;
            Ok(text.split_once("front::").map(|(_, address)| address.trim().to_owned()).ok_or(text))
        };
        let address = wait::wait_for("the listener comes", wait::LONG, listeners).await?;
        let (status, _) = weft_tests::http::get(&format!("http://{address}/")).await?;
        ensure!(status == 200, "{status}");
        proxy.finish().await?;
    }
    Ok(())
}
