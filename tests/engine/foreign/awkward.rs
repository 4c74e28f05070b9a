//! Responses that no good server sends.

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::{measured, need};

use super::{Driven, VARIANTS, cluster, control::Control, endpoints, routes};

/// Among so many one cannot be used.
const CLUSTERS: usize = 1000;

#[tokio::test]
async fn a_nonce_that_is_used_again_is_answered_again() -> anyhow::Result<()> {
    need!("foreign: nonces", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        for endpoint in [driven.upstream.address, driven.other.address] {
            let response =
                json!({"type": "eds", "version": "7", "resources": [endpoints("up", &[endpoint])]});
            for _ in 0..2 {
                let answer = driven.control.raw("replayed", response.clone()).await?;
                ensure!(answer.get("error_detail").is_none(), "{answer}");
            }
        }
        driven.moves_to_other().await?;
        // One nonce for different types, and none at all.
        for nonce in ["replayed", ""] {
            let response = json!({"type": "rds", "version": "7", "resources": [routes("front", "up")]});
            driven.control.send(nonce, response).await?;
        }
        driven.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_asked_for_is_left_alone() -> anyhow::Result<()> {
    need!("foreign: not asked", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        let nobody = endpoints("nobody", &[driven.other.address]);
        let answer =
            driven.control.raw("a", json!({"type": "eds", "version": "2", "resources": [nobody]})).await?;
        ensure!(answer.get("error_detail").is_none(), "{answer}");
        let other = routes("nobody", "nowhere");
        let answer =
            driven.control.raw("b", json!({"type": "rds", "version": "2", "resources": [other]})).await?;
        ensure!(answer.get("error_detail").is_none(), "{answer}");
        // Types that were never asked for, known and unknown, get no answer; the stream stays.
        driven.control.forget();
        driven.control.send("c", json!({"type": "sds", "version": "2", "resources": []})).await?;
        let unknown = "type.googleapis.com/weft.of.no.Such.Type";
        driven.control.send("d", json!({"type": unknown, "version": "2", "resources": []})).await?;
        driven.add_other("2").await?;
        driven.route_to_other("2").await?;
        let (_, dump) = driven.proxy.admin("GET", "/config_dump?include_eds").await?;
        ensure!(!dump.contains("nobody"), "{dump}");
        driven.finish().await?;
    }
    Ok(())
}

/// Endpoints that come before their cluster are not asked for yet, and come again when they are.
#[tokio::test]
async fn endpoints_that_come_before_their_cluster_are_no_loss() -> anyhow::Result<()> {
    need!("foreign: order", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        let both = [endpoints("up", &[driven.upstream.address]), endpoints("other", &[driven.other.address])];
        driven.control.send("early", json!({"type": "eds", "version": "2", "resources": both})).await?;
        driven.control.set("eds", "2", &both).await?;
        driven.control.set("rds", "2", &[routes("front", "up")]).await?;
        driven.control.set("cds", "2", &[cluster("up"), cluster("other")]).await?;
        driven.route_to_other("3").await?;
        driven.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_response_with_a_name_twice_is_refused_and_the_next_one_taken() -> anyhow::Result<()> {
    need!("foreign: twice", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        let twice = [cluster("up"), cluster("other"), cluster("other")];
        let answer =
            driven.control.raw("twice", json!({"type": "cds", "version": "2", "resources": twice})).await?;
        let reason = answer["error_detail"]["message"].as_str().unwrap_or_default();
        ensure!(reason.contains("\"other\" is there twice"), "{answer}");
        driven.add_other("3").await?;
        driven.route_to_other("3").await?;
        driven.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_bad_cluster_among_a_thousand_is_named_to_any_control_plane() -> anyhow::Result<()> {
    need!("foreign: thousand", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        let mut clusters: Vec<Value> = (1..CLUSTERS).map(|number| many(&format!("c{number}"))).collect();
        clusters.push(cluster("up"));
        clusters[400]["connect_timeout"] = json!("-3s");
        let bad = clusters[400]["name"].as_str().unwrap_or_default().to_owned();
        let response = json!({"type": "cds", "version": "2", "resources": clusters});
        let answer = driven.control.raw("many", response).await?;
        let reason = answer["error_detail"]["message"].as_str().unwrap_or_default();
        ensure!(reason.contains(&bad) && reason.contains("connect_timeout"), "{answer}");
        ensure!(!reason.contains("c17"), "{answer}");
        let (_, known) = driven.proxy.admin("GET", "/clusters").await?;
        ensure!(known.contains("c1::") && known.contains("c999::"), "{known}");
        ensure!(!known.contains(&format!("{bad}::")), "{known}");
        driven.finish().await?;
    }
    Ok(())
}

/// gRPC's own limit of a message is 4 MB.
#[tokio::test]
async fn a_response_of_many_megabytes_is_taken() -> anyhow::Result<()> {
    need!("foreign: huge", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        let mut assignment = endpoints("up", &[driven.other.address]);
        let padding = "x".repeat(24 << 20);
        assignment["endpoints"][0]["lb_endpoints"][0]["metadata"] =
            json!({"filter_metadata": {"weft.test": {"padding": padding}}});
        let started = std::time::Instant::now();
        let response = json!({"type": "eds", "version": "2", "resources": [assignment]});
        let answer = driven.control.raw("huge", response).await?;
        ensure!(answer.get("error_detail").is_none(), "{answer}");
        driven.moves_to_other().await?;
        measured!("xDS from grpcio, {variant}: a response of 24 MB in force within {:?}", started.elapsed());
        driven.finish().await?;
    }
    Ok(())
}

/// What only the incremental variant has.
#[tokio::test]
async fn what_is_removed_without_being_there_and_other_names_of_a_thing_change_nothing() -> anyhow::Result<()>
{
    need!("foreign: removed", Control::python().await);
    let mut driven = Driven::start("DELTA_GRPC").await?;
    for type_ in ["cds", "eds", "lds", "rds"] {
        let response = json!({"type": type_, "version": "2", "resources": [], "removed": ["nobody", ""]});
        let answer = driven.control.raw(type_, response).await?;
        ensure!(answer.get("error_detail").is_none(), "{answer}");
    }
    let aliased = json!({
        "name": "up", "version": "3", "aliases": ["alias-of-up"], "resource": endpoints("up", &[driven.other.address]),
    });
    let response = json!({"type": "eds", "version": "3", "resources": [aliased], "removed": ["alias-of-up"]});
    let answer = driven.control.raw("aliased", response).await?;
    ensure!(answer.get("error_detail").is_none(), "{answer}");
    driven.moves_to_other().await?;
    driven.finish().await
}

/// A cluster that needs no endpoints from elsewhere.
fn many(name: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9}}}},
            ]}],
        },
    })
}
