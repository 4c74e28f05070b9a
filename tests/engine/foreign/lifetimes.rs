//! Resources that live for a time only.

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::need;

use super::{Driven, VARIANTS, cluster, control::Control, endpoints};

/// What a control plane gives for a time goes when that is over, and stays while it says that it is alive; also when
/// the control plane itself is gone.
#[tokio::test]
async fn what_is_given_for_a_time_goes_without_a_word() -> anyhow::Result<()> {
    need!("foreign: times to live", Control::python().await);
    for variant in VARIANTS {
        let mut driven = Driven::start(variant).await?;
        let for_a_time = |name: &str, ttl: &str, body: bool| {
            let resource = if body { cluster(name) } else { Value::Null };
            json!({"name": name, "version": "2", "ttl": ttl, "resource": resource})
        };
        let world = [
            cluster("up"),
            for_a_time("other", "4s", true),
            for_a_time("doomed", "4s", true),
            for_a_time("orphan", "9s", true),
        ];
        driven.control.set("cds", "2", &world).await?;
        let all = ["up", "other", "doomed", "orphan"].map(|name| endpoints(name, &[driven.upstream.address]));
        driven.control.set("eds", "2", &all).await?;
        for name in ["other", "doomed", "orphan"] {
            let label = format!("\"{name}\"");
            driven.proxy.metric_becomes("envoy_cluster_membership_total", &label, 1.0).await?;
        }
        // A sign of life is of one, and says nothing of the others.
        let alive = json!({"type": "cds", "version": "2", "resources": [for_a_time("other", "600s", false)]});
        let answer = driven.control.raw("alive", alive).await?;
        ensure!(answer.get("error_detail").is_none(), "{answer}");
        driven.proxy.metric_becomes("envoy_cluster_membership_total", "\"doomed\"", 0.0).await?;
        ensure!(driven.proxy.metric("envoy_cluster_membership_total", "\"other\"").await? == 1.0);
        driven.control.tell(&json!({"do": "stop"})).await?;
        driven.proxy.metric_becomes("envoy_cluster_membership_total", "\"orphan\"", 0.0).await?;
        ensure!(driven.proxy.metric("envoy_cluster_membership_total", "\"other\"").await? == 1.0);
        driven.finish().await?;
    }
    Ok(())
}
