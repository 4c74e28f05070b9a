//! Many endpoints fail at a time.

use anyhow::ensure;
use serde_json::{Value, json};
use weft_tests::{bootstrap::socket, proxy::Proxy};

use super::{
    RETRY_ON,
    backend::{self, Backend, HEALTH},
    load::Load,
    metric, proxy, settles,
};

/// Checks that notice within a fraction of a second.
fn checked() -> Value {
    json!([{
        "timeout": "1s", "interval": "0.05s", "unhealthy_threshold": 2, "healthy_threshold": 2, "no_traffic_interval": "0.05s",
        "http_health_check": {"path": HEALTH},
    }])
}

/// Waits until so many endpoints take traffic.
async fn healthy(proxy: &Proxy, count: usize) -> anyhow::Result<()> {
    proxy.metric_becomes("envoy_cluster_membership_healthy", "\"up\"", count as f64).await
}

/// A user of locality weights expects: with half of a zone gone the other half is not overrun. The zone gets 70 % of its
/// weight (140 % over-provisioning of a half), so of two zones of equal weight 7 of 17 requests; and nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_half_of_a_zone_gone_the_rest_of_it_gets_what_it_can_bear() -> anyhow::Result<()> {
    let (mut near, far) =
        (Backend::start_all(["a", "b", "c", "d"]).await?, Backend::start_all(["e", "f", "g", "h"]).await?);
    let zone = |name: &str, backends: &[Backend]| {
        let hosts: Vec<Value> = backend::addresses(backends)
            .into_iter()
            .map(|address| json!({"endpoint": {"address": socket(address)}}))
            .collect();
        json!({"locality": {"zone": name}, "load_balancing_weight": 1, "lb_endpoints": hosts})
    };
    let cluster = json!({
        "lb_policy": "ROUND_ROBIN",
        "common_lb_config": {"locality_weighted_lb_config": {}},
        "health_checks": checked(),
        "load_assignment": {"cluster_name": "up", "endpoints": [zone("near", &near), zone("far", &far)]},
    });
    let proxy = proxy(&[], json!({"retry_on": RETRY_ON, "num_retries": 3}), cluster).await?;
    healthy(&proxy, 8).await?;

    // While it happens.
    let mut load = Load::start(&proxy, "front", 1_000, 800)?;
    load.sent(200).await?;
    let (first, second) = near.split_at_mut(1);
    tokio::join!(first[0].kill(), second[0].kill());
    let answers = load.end().await?;
    ensure!(answers.failed() == 0, "{} of 1000 failed", answers.failed());
    healthy(&proxy, 6).await?;

    // And after it was noticed.
    let answers = Load::start(&proxy, "front", 850, 850)?.end().await?;
    ensure!(answers.failed() == 0, "{} of 850 failed", answers.failed());
    let (near_part, far_part) =
        (["c", "d"].map(|name| answers.from(name)), ["e", "f", "g", "h"].map(|name| answers.from(name)));
    let near_total: usize = near_part.iter().sum();
    // Zones are drawn at random; five standard deviations.
    ensure!(near_total.abs_diff(350) <= 72, "the zone got {near_total} of 850: {near_part:?} {far_part:?}");
    // Within a zone both data threads go by turn, each for itself.
    let far_total = 850 - near_total;
    let from_fair = |part: &usize, fair: usize| part.abs_diff(fair);
    let uneven = near_part.iter().map(|part| from_fair(part, near_total / 2));
    for part in uneven.chain(far_part.iter().map(|part| from_fair(part, far_total / 4))) {
        ensure!(part <= 20, "not even within a zone: {near_part:?} {far_part:?}");
    }

    for backend in &mut near[..2] {
        backend.revive().await?;
    }
    healthy(&proxy, 8).await?;
    let answers = Load::start(&proxy, "front", 400, 800)?.end().await?;
    let near_total: usize = ["a", "b", "c", "d"].map(|name| answers.from(name)).iter().sum();
    ensure!(
        answers.failed() == 0 && near_total.abs_diff(200) <= 50,
        "back again, the zone got {near_total} of 400"
    );
    settles(&proxy, 2_250).await?;
    proxy.finish().await
}

/// A user expects: checks that fail everywhere are rather a fault of the checks; somebody is better than nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_endpoints_fail_their_checks_all_are_used_until_some_pass_again() -> anyhow::Result<()> {
    let backends = Backend::start_all(["a", "b", "c", "d"]).await?;
    let cluster = json!({"lb_policy": "ROUND_ROBIN", "health_checks": checked()});
    let proxy = proxy(&backend::addresses(&backends), json!(null), cluster).await?;
    healthy(&proxy, 4).await?;
    let mut load = Load::start(&proxy, "front", 1_200, 800)?;
    load.sent(100).await?;
    backends.iter().for_each(|backend| backend.says_healthy(false));
    healthy(&proxy, 0).await?;
    let from = load.sent_so_far();
    load.sent(from + 300).await?;
    // Most are well: no panic any more, and the one that is not gets nothing.
    backends[..3].iter().for_each(|backend| backend.says_healthy(true));
    healthy(&proxy, 3).await?;
    // Some were on their way when it changed.
    let well = load.settled().await?;
    let asked = backends[3].asked();
    let answers = load.end().await?;

    ensure!(well < 1_000, "the machine was too slow for this test to mean much: {well}");
    ensure!(answers.failed() == 0, "{} of 1200 failed", answers.failed());
    for backend in &backends {
        let part = answers.of(from..from + 300).from(backend.name);
        ensure!(part.abs_diff(75) <= 15, "in panic {} got {part} of 300", backend.name);
    }
    let late = backends[3].asked() - asked;
    ensure!(late <= 3, "{late} of {} went to the one that still fails", 1_200 - well);
    settles(&proxy, 1_200).await?;
    proxy.finish().await
}

/// A user who switched panic off expects: nobody well means a clear no at once, counted, and all is good when they are back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_panic_requests_are_refused_while_nobody_is_well() -> anyhow::Result<()> {
    let backends = Backend::start_all(["a", "b"]).await?;
    let cluster =
        json!({"health_checks": checked(), "common_lb_config": {"healthy_panic_threshold": {"value": 0}}});
    let proxy = proxy(&backend::addresses(&backends), json!({"retry_on": RETRY_ON}), cluster).await?;
    healthy(&proxy, 2).await?;
    backends.iter().for_each(|backend| backend.says_healthy(false));
    healthy(&proxy, 0).await?;
    let before = backend::asked(&backends);
    let answers = Load::start(&proxy, "front", 300, 800)?.end().await?;
    ensure!(answers.with_status(503) == 300, "{} of 300 were refused", answers.with_status(503));
    ensure!(backend::asked(&backends) == before, "nobody was asked");
    let nobody = metric(&proxy, "upstream_cx_none_healthy").await?;
    ensure!(nobody == 300, "counted {nobody}");

    backends.iter().for_each(|backend| backend.says_healthy(true));
    healthy(&proxy, 2).await?;
    let answers = Load::start(&proxy, "front", 300, 800)?.end().await?;
    ensure!(answers.failed() == 0, "{} of 300 failed", answers.failed());
    settles(&proxy, 600).await?;
    proxy.finish().await
}
