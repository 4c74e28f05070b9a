//! More is asked for than backends can do.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use weft_tests::{bootstrap::Bootstrap, proxy::Proxy};

use super::{
    RETRY_ON,
    backend::{self, Backend, Conduct},
    load::Load,
    metric, route, settles,
};

/// A user expects: when everything fails, retries do not multiply the load; upstreams get less than 1.2 times what clients
/// ask for, and when they are well again, nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_retries_stays_below_1_2_times_what_is_offered() -> anyhow::Result<()> {
    let backends = Backend::start_all(["a", "b", "c", "d"]).await?;
    let retry = json!({"retry_on": RETRY_ON, "num_retries": 3});
    let proxy =
        super::proxy(&backend::addresses(&backends), retry, json!({"lb_policy": "ROUND_ROBIN"})).await?;
    let mut load = Load::start(&proxy, "front", 2_400, 1_200)?;
    load.sent(600).await?;
    backends.iter().for_each(|backend| backend.becomes(Conduct::Say(503)));
    let from = load.sent_so_far();
    load.sent(1_600).await?;
    backends.iter().for_each(|backend| backend.becomes(Conduct::Answer(Duration::from_millis(2))));
    let to = load.sent_so_far();
    let answers = load.end().await?;

    let asked = backend::asked(&backends);
    ensure!(asked * 10 < 2_400 * 12, "{asked} requests reached the upstreams for 2400 that were offered");
    let (failed, retried) = (answers.failed(), metric(&proxy, "upstream_rq_retry").await?);
    ensure!(failed * 2 > to - from, "there was a storm: {failed} of {}", to - from);
    ensure!(answers.with_status(503) == failed, "what fails is what the upstreams said");
    ensure!(asked == 2_400 + retried, "{asked} requests of which {retried} were retries");
    let refused = metric(&proxy, "upstream_rq_retry_overflow").await?;
    ensure!(refused > 0, "the budget was not needed");
    let calm = answers.of(to..answers.count());
    ensure!(calm.failed() == 0, "{} of {} failed after the storm", calm.failed(), calm.count());
    settles(&proxy, 2_400).await?;
    proxy.finish().await
}

/// A user of circuit breakers expects: a backend gets as much at a time as it can do, few wait, and the rest is told at
/// once that there is no room. Retries do not count as room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_at_its_limit_sheds_what_it_cannot_do_and_serves_the_rest() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 4;
    const WAITING: usize = 6;
    let backend = Backend::start("only").await?;
    // 4 at a time, 20 ms each: 200 in a second.
    backend.becomes(Conduct::Answer(Duration::from_millis(20)));
    let limits =
        json!({"max_connections": CONNECTIONS, "max_pending_requests": WAITING, "max_retries": 1_000});
    let bootstrap = Bootstrap::default()
        .http_routes("front", route("up", json!({"retry_on": RETRY_ON, "num_retries": 3})), json!({}))
        .cluster("up", &[backend.address], json!({"circuit_breakers": {"thresholds": [limits]}}));
    // With one data thread, for each may have a connection of its own whatever the limit.
    let proxy = Proxy::start_with(bootstrap, &["--concurrency", "1"]).await?;
    let answers = Load::start(&proxy, "front", 1_000, 600)?.end().await?;

    let (good, refused) = (answers.from("only"), answers.refused());
    ensure!(good + refused == 1_000, "{good} served and {refused} refused, of 1000");
    ensure!(good == backend.asked(), "{good} served, {} reached the backend", backend.asked());
    ensure!(good >= 150, "only {good} of some 330 that it can do were served");
    ensure!(refused >= 400, "{refused} refused: there was no queue without end");
    ensure!(backend.most_at_a_time() <= CONNECTIONS, "{} at a time", backend.most_at_a_time());
    // Six wait for four that take 20 ms: nobody waits for long. A queue without end would have grown to seconds.
    let late = answers.good_but_later_than(Duration::from_secs(2));
    ensure!(late == 0, "{late} of {good} waited for more than two seconds");
    let shed = metric(&proxy, "upstream_rq_pending_overflow").await?;
    ensure!(shed == refused, "{refused} refused, {shed} counted");
    let flagged =
        proxy.metric("envoy_http_downstream_rq_error", "response_flag=\"UO\"").await?.round() as usize;
    ensure!(flagged == refused, "{refused} refused, {flagged} with the flag UO");
    ensure!(metric(&proxy, "upstream_rq_retry").await? == 0, "what finds no room is not tried again");
    settles(&proxy, 1_000).await?;
    proxy.finish().await
}
