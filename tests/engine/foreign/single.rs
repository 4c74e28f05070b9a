//! Types that come from servers of their own.

use std::{net::SocketAddr, time::Duration};

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::{bootstrap::Bootstrap, http::Sampler, need, proxy::Proxy, upstream::Upstream};

use super::{VARIANTS, arrive, cluster_from, control::Control, endpoints, listener_from, routes};

/// A source with a stream for each type.
fn from(cluster: &str, variant: &str) -> Value {
    json!({"resource_api_version": "V3", "api_config_source": {
        "api_type": variant,
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}],
    }})
}

/// One team owns what there is, another one where requests go, and each has a control plane: both drive one proxy, and
/// what one of them calls `up` is not what the other one does.
#[tokio::test]
async fn each_type_comes_from_a_control_plane_of_its_own() -> anyhow::Result<()> {
    need!("foreign: single types", Control::python().await);
    for (variant, other_variant) in VARIANTS.into_iter().zip(VARIANTS.into_iter().rev()) {
        let (mut what, mut wher) = (Control::start().await?, Control::start().await?);
        let (first, second) = (Upstream::start().await?, Upstream::start().await?);
        let (from_what, from_where) = (from("what", variant), from("where", other_variant));
        let mut twin = cluster_from("twin", &from_where);
        twin["eds_cluster_config"]["service_name"] = json!("up");
        what.set("cds", "1", &[cluster_from("up", &from_what), twin]).await?;
        what.set("eds", "1", &[endpoints("up", &[first.address])]).await?;
        wher.set("eds", "1", &[endpoints("up", &[second.address])]).await?;
        wher.set("lds", "1", &[listener_from("front", &from_where)]).await?;
        wher.set("rds", "1", &[routes("front", "up")]).await?;
        let bootstrap = Bootstrap::default()
            .http2_cluster("what", &[what.address], json!({}))
            .http2_cluster("where", &[wher.address], json!({}))
            .dynamic(json!({"cds_config": from_what, "lds_config": from_where}));
        let proxy = Proxy::start(bootstrap).await?;
        let load = Sampler::start(&proxy.at("front")?.to_string(), 2, Duration::from_millis(5));
        arrive(&first, 10).await?;
        ensure!(second.requests() == 0, "the routes lead to what is called so by the first");
        let clusters = method(&mut what, "cds").await?;
        let listeners = method(&mut wher, "lds").await?;
        let prefix = |variant: &str| if variant == "GRPC" { "Stream" } else { "Delta" };
        ensure!(clusters == format!("{}Clusters", prefix(variant)), "{clusters}");
        ensure!(listeners == format!("{}Listeners", prefix(other_variant)), "{listeners}");

        // Where requests go changes, and then that control plane is gone: the other one still is heard.
        proxy.metric_becomes("envoy_cluster_membership_total", "\"twin\"", 1.0).await?;
        wher.set("rds", "2", &[routes("front", "twin")]).await?;
        arrive(&second, 10).await?;
        wher.set("rds", "3", &[routes("front", "up")]).await?;
        let so_far = first.requests();
        arrive(&first, so_far + 10).await?;
        wher.tell(&json!({"do": "stop"})).await?;
        let third = Upstream::start().await?;
        what.set("eds", "2", &[endpoints("up", &[third.address])]).await?;
        arrive(&third, 10).await?;
        let (failed, all, some) = load.failures();
        ensure!(failed == 0, "{failed} of {all} requests failed: {some:?}\n{}", proxy.log());
        drop(load);
        proxy.finish().await?;
    }
    Ok(())
}

/// The method that a type was asked for with.
async fn method(control: &mut Control, type_: &str) -> anyhow::Result<String> {
    let request = control.event(type_, |event| event["first"] == true && event["type"] == type_).await?;
    Ok(request["method"].as_str().unwrap_or_default().to_owned())
}

/// A name can say itself whose it is.
#[tokio::test]
async fn a_structured_name_is_asked_of_its_authority() -> anyhow::Result<()> {
    need!("foreign: authorities", Control::python().await);
    let (mut control, mut authority) = (Control::start().await?, Control::start().await?);
    let upstream = Upstream::start().await?;
    let hosts = "xdstp://hosts.test/envoy.config.endpoint.v3.ClusterLoadAssignment/up";
    let table = "xdstp://others.test/envoy.config.route.v3.RouteConfiguration/front?zone=a";
    let mut cluster = cluster_from("up", &Value::Null);
    cluster["eds_cluster_config"] = json!({"service_name": hosts});
    let mut listener = listener_from("front", &Value::Null);
    listener["filter_chains"][0]["filters"][0]["typed_config"]["rds"] = json!({"route_config_name": table});
    let mut nobody = cluster.clone();
    nobody["name"] = json!("nobody");
    nobody["eds_cluster_config"]["service_name"] =
        json!("xdstp://hosts.test/envoy.config.route.v3.RouteConfiguration/up");
    control.set("cds", "1", &[cluster, nobody]).await?;
    control.set("lds", "1", &[listener]).await?;
    authority.set("eds", "1", &[endpoints(hosts, &[upstream.address])]).await?;
    control.set("rds", "1", &[routes(table, "up")]).await?;
    let mut of_hosts = from("authority", "DELTA_GRPC");
    of_hosts["authorities"] = json!([{"name": "hosts.test"}]);
    let mut bootstrap: Value = serde_json::from_str(
        &Bootstrap::default()
            .http2_cluster("authority", &[authority.address], json!({}))
            .http2_cluster("xds", &[control.address], json!({}))
            .dynamic(json!({"cds_config": from("xds", "GRPC"), "lds_config": from("xds", "GRPC")}))
            .to_string(),
    )?;
    bootstrap["config_sources"] = json!([of_hosts]);
    bootstrap["default_config_source"] = from("xds", "GRPC");
    let proxy = Proxy::start(bootstrap).await?;
    let (status, _) = weft_tests::http::get(&proxy.url("front")?).await?;
    ensure!(status == 200 && upstream.requests() == 1, "{status}");
    let asked = authority.first_request().await?;
    ensure!(asked["resource_names_subscribe"] == json!([hosts]), "{asked}");
    let refused = control.event("a refusal", |event| event.get("error_detail").is_some()).await?;
    let reason = refused["error_detail"]["message"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("nobody") && reason.contains("service_name") && reason.contains("no name of"),
        "{reason}"
    );
    proxy.finish().await
}

/// What cannot be is refused where it is written.
#[tokio::test]
async fn a_source_that_leads_nowhere_is_refused_by_its_path() -> anyhow::Result<()> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let bad = |source: Value| {
        Bootstrap::default().cluster("known", &[nowhere], json!({})).dynamic(json!({"cds_config": source}))
    };
    for (source, reason) in [
        (
            from("unknown", "GRPC"),
            "api_config_source.grpc_services[0].envoy_grpc.cluster_name: there is no static cluster \"unknown\"",
        ),
        (
            from("known", "AGGREGATED_GRPC"),
            "api_config_source.api_type: only GRPC, DELTA_GRPC and REST are supported",
        ),
        (
            json!({"api_config_source": {"api_type": "REST", "transport_api_version": "V3", "cluster_names": ["known"]}}),
            "api_config_source.refresh_delay: is required",
        ),
        (
            json!({"api_config_source": {"api_type": "REST", "transport_api_version": "V3", "refresh_delay": "1s"}}),
            "api_config_source.cluster_names: exactly one is supported",
        ),
    ] {
        let Err(error) = Proxy::start(bad(source)).await else { anyhow::bail!("taken, but {reason}") };
        let error = format!("{error:#}");
        ensure!(error.contains(&format!("dynamic_resources.cds_config.{reason}")), "{error}");
    }
    Ok(())
}
