//! Routes that come before the endpoints of the cluster that they lead to.

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::need;

use super::{Driven, VARIANTS, arrive, cluster, control::Control, endpoints, routes};

/// Has the server say nothing of endpoints, gives cluster `other`, and waits until its endpoints are asked for.
async fn add_other_without_endpoints(driven: &mut Driven) -> anyhow::Result<()> {
    driven.control.tell(&json!({"do": "hold", "type": "eds"})).await?;
    driven.control.forget();
    driven.control.set("cds", "2", &[cluster("up"), cluster("other")]).await?;
    let asks = |event: &Value| event["type"] == "eds" && event.to_string().contains("\"other\"");
    driven.control.event("its endpoints are asked for, without an answer for the cluster", asks).await?;
    Ok(())
}

fn is_answer_for(type_: &'static str) -> impl Fn(&Value) -> bool {
    move |event| {
        event["type"] == type_ && event["response_nonce"].as_str().is_some_and(|nonce| !nonce.is_empty())
    }
}

/// Envoy answers 503 here; its server has to wait for the answer to the cluster, and the awkward one does not.
#[tokio::test]
async fn routes_that_come_before_endpoints_wait_for_them_and_no_request_is_lost() -> anyhow::Result<()> {
    need!("foreign: warming", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        add_other_without_endpoints(&mut driven).await?;
        driven.control.set("rds", "2", &[routes("front", "other")]).await?;
        // It even takes back the cluster that the old routes need.
        driven.control.set("cds", "3", &[cluster("other")]).await?;
        let before = driven.upstream.requests();
        arrive(&driven.upstream, before + 100).await?;
        driven.control.tell(&json!({"do": "hold", "type": "eds"})).await?;
        for type_ in ["cds", "rds"] {
            ensure!(!driven.control.saw(is_answer_for(type_)), "{variant}: {type_} was acknowledged");
        }
        driven.control.set("eds", "2", &[endpoints("other", &[driven.other.address])]).await?;
        driven.moves_to_other().await?;
        for type_ in ["cds", "rds"] {
            let answer = driven.control.event("an acknowledgement", is_answer_for(type_)).await?;
            ensure!(answer.get("error_detail").is_none(), "{answer}");
        }
        driven.finish().await?;
    }
    Ok(())
}

/// The same cluster with its endpoints from another name.
#[tokio::test]
async fn a_cluster_that_changes_serves_as_it_was_until_its_endpoints_come() -> anyhow::Result<()> {
    need!("foreign: changed", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        driven.control.tell(&json!({"do": "hold", "type": "eds"})).await?;
        driven.control.forget();
        let mut changed = cluster("up");
        changed["eds_cluster_config"]["service_name"] = json!("elsewhere");
        driven.control.set("cds", "2", &[changed]).await?;
        let asks = |event: &Value| event["type"] == "eds" && event.to_string().contains("elsewhere");
        driven.control.event("its endpoints are asked for", asks).await?;
        let before = driven.upstream.requests();
        arrive(&driven.upstream, before + 100).await?;
        driven.control.tell(&json!({"do": "hold", "type": "eds"})).await?;
        ensure!(!driven.control.saw(is_answer_for("cds")), "{variant}: it was acknowledged");
        driven.control.set("eds", "2", &[endpoints("elsewhere", &[driven.other.address])]).await?;
        driven.moves_to_other().await?;
        driven.control.event("an acknowledgement", is_answer_for("cds")).await?;
        driven.finish().await?;
    }
    Ok(())
}
