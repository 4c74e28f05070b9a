//! Streams that end at the wrong moment.

use anyhow::ensure;
use serde_json::json;
use weft_tests::need;

use super::{Driven, VARIANTS, cluster, control::Control, listener, routes};

/// The new cluster is told, its endpoints are not, and the stream ends: what was begun goes on with the next one.
#[tokio::test]
async fn a_stream_that_ends_in_the_middle_of_a_change_is_taken_up_where_it_was() -> anyhow::Result<()> {
    need!("foreign: middle", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        driven.control.first_request().await?;
        driven.control.tell(&json!({"do": "hold", "type": "eds"})).await?;
        driven.control.set("cds", "2", &[cluster("up"), cluster("other")]).await?;
        for code in ["UNAVAILABLE", "INTERNAL", "OK"] {
            driven.control.tell(&json!({"do": "close", "code": code})).await?;
            let first = driven.control.first_request().await?;
            ensure!(first["node"]["id"] == "test", "{first}");
        }
        driven.add_other("3").await?;
        driven.route_to_other("3").await?;
        driven.finish().await?;
    }
    Ok(())
}

/// A server that lost its memory counts from one again: versions say nothing about what is newer.
#[tokio::test]
async fn a_server_that_comes_back_with_lower_versions_is_followed() -> anyhow::Result<()> {
    need!("foreign: lower", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        driven.add_other("70").await?;
        driven.control.set("rds", "70", &[routes("front", "up")]).await?;
        driven.proxy.metric_becomes("envoy_cluster_membership_total", "\"other\"", 1.0).await?;
        driven.control.tell(&json!({"do": "stop"})).await?;
        driven.control.forget();
        driven.control.tell(&json!({"do": "start"})).await?;
        let first = driven.control.first_request().await?;
        // What is held is told, in the words that each variant has for it.
        match variant {
            "GRPC" => ensure!(first["version_info"] == "70", "{first}"),
            _ => ensure!(first["initial_resource_versions"]["other"] == "70", "{first}"),
        }
        driven.add_other("1").await?;
        driven.control.set("lds", "1", &[listener("front")]).await?;
        driven.control.set("rds", "1", &[routes("front", "other")]).await?;
        driven.moves_to_other().await?;
        driven.finish().await?;
    }
    Ok(())
}
