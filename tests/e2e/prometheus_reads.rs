//! 5: a real Prometheus scrapes control and sidecars, and its queries return the load that wrk produced.

use std::time::Duration;

use anyhow::ensure;
use weft_tests::{
    cluster::{Cluster, Runtime},
    measured, need,
    prometheus::{self, Prometheus},
    serial,
    wait::{LONG, wait_for},
    wrk,
};

#[tokio::test(flavor = "multi_thread")]
async fn rate_errors_and_latency_per_service_are_what_wrk_produced() -> anyhow::Result<()> {
    let _serial = serial().await;
    let test = "prometheus_reads";
    let prometheus = need!(test, prometheus::find());
    let wrk = need!(test, wrk::find());
    let cluster = Cluster::up(Runtime::Process, true).await?;
    let prometheus = Prometheus::start(&prometheus, &cluster.status("metrics")?).await?;

    wait_for("every target is up", LONG, || async {
        let down = prometheus.query("up == 0").await?;
        let up = prometheus.query("up == 1").await?.len();
        // Control, 6 sidecars, the gateway.
        Ok(if up >= 8 && down.is_empty() { Ok(()) } else { Err(format!("{up} up, down: {down:?}")) })
    })
    .await?;

    // The gateway is the proxy between wrk and the replicas; its outbound cluster is the service.
    let service = r#"{app="gateway",envoy_cluster_name="web.default:80"}"#;
    let total = format!("sum(envoy_cluster_upstream_rq_total{service})");
    let before = prometheus.value(&format!("{total} or vector(0)"), LONG).await?;
    let report = wrk::start(&wrk, &format!("http://{}/", cluster.web()?), 16, Duration::from_secs(10))?
        .report()
        .await?;
    measured!("{report}");
    // The answers to the last requests of wrk, one per connection, may be counted by the proxy and not by wrk.
    let expected = report.requests as f64;
    let counted = wait_for("the counter shows the load", LONG, || async {
        let counted = prometheus.value(&total, LONG).await? - before;
        Ok(if counted >= expected { Ok(counted) } else { Err(format!("{counted} of {expected}")) })
    })
    .await?;
    measured!("Prometheus counted {counted} requests to web, wrk {expected}");
    ensure!(counted <= expected * 1.02 + 200.0, "more than wrk sent: {counted} of {expected}");

    let rate =
        prometheus.value(&format!("sum(rate(envoy_cluster_upstream_rq_total{service}[30s]))"), LONG).await?;
    ensure!(rate > 0.0, "request rate {rate}");
    let errors = prometheus
        .value(
            "sum(rate(envoy_cluster_upstream_rq_xx{app=\"gateway\",envoy_cluster_name=\"web.default:80\",\
                 envoy_response_code_class=\"5\"}[30s])) or vector(0)",
            LONG,
        )
        .await?;
    let p99 = prometheus
        .value(
            &format!(
                "histogram_quantile(0.99, sum by (le) (rate(envoy_cluster_upstream_rq_time_bucket{service}[30s])))"
            ),
            LONG,
        )
        .await?;
    measured!("by Prometheus: {rate:.0} requests/s over 30 s, {errors} errors/s, p99 {p99:.2} ms");
    ensure!(p99 > 0.0, "latency {p99}");

    // The replicas' own sidecars saw it too, spread over all three.
    let inbound = wait_for("inbound counters of every replica", LONG, || async {
        let samples = prometheus
            .query(r#"sum by (pod) (envoy_cluster_upstream_rq_total{app="web",envoy_cluster_name=~"inbound.*"}) > 0"#)
            .await?;
        Ok(if samples.len() == 3 { Ok(samples) } else { Err(format!("{samples:?}")) })
    })
    .await?;
    measured!("inbound requests by replica: {:?}", inbound.iter().map(|(_, it)| *it).collect::<Vec<_>>());

    // Whatever metric the README names is there.
    for name in metrics_of_the_readme()? {
        let found = prometheus.query(&format!("count({{__name__=\"{name}\"}})")).await?;
        ensure!(found.len() == 1, "the README names {name}, which nobody exports");
    }

    let control = prometheus.query(r#"count({job="weft-control",__name__=~".+"})"#).await?;
    ensure!(control.first().is_some_and(|(_, count)| *count > 20.0), "control has metrics: {control:?}");
    Ok(())
}

/// The first column of its tables of metrics: backquoted names that Prometheus could have.
fn metrics_of_the_readme() -> anyhow::Result<Vec<String>> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))?;
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let names: Vec<String> = rows
        .filter(|name| {
            ["envoy_", "weft_", "apiserver_", "scheduler_"].iter().any(|prefix| name.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect();
    ensure!(names.len() >= 10, "the README has a table of metrics: {names:?}");
    Ok(names)
}
