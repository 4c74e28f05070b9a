//! One endpoint of four fails, each time in another way.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use weft_tests::wait;

use super::{
    RETRY_ON,
    backend::{self, Backend, Conduct},
    load::{Answers, Load},
    metric, proxy, settles,
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Every policy that a sidecar's user is likely to have without thinking about it.
const POLICIES: [&str; 3] = ["PEAK_EWMA", "ROUND_ROBIN", "LEAST_REQUEST"];

/// The fields of a cluster that name a policy; a static cluster that names none gets peak EWMA.
fn policy(name: &str) -> serde_json::Value {
    if name == "PEAK_EWMA" { json!({}) } else { json!({"lb_policy": name}) }
}

fn each_has_its_part(answers: &Answers, least: usize) -> anyhow::Result<()> {
    for name in NAMES {
        let part = answers.from(name);
        ensure!(part >= least, "{name} got {part} of {}", answers.count());
    }
    Ok(())
}

/// A user expects: whoever is killed and started again, no client notices, and then it serves as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_killed_and_comes_back_fails_no_request() -> anyhow::Result<()> {
    for name in POLICIES {
        let mut backends = Backend::start_all(NAMES).await?;
        let retry = json!({"retry_on": RETRY_ON, "num_retries": 2});
        let proxy = proxy(&backend::addresses(&backends), retry, policy(name)).await?;
        let mut load = Load::start(&proxy, "front", 1_000, 800)?;
        load.sent(250).await?;
        backends[0].kill().await;
        let (killed_at, asked) = (load.sent_so_far(), backends[0].asked());
        load.sent(700).await?;
        ensure!(backends[0].asked() == asked, "the dead get nothing");
        backends[0].revive().await?;
        let answers = load.end().await?;

        ensure!(answers.failed() == 0, "{name}: {} of 1000 failed", answers.failed());
        ensure!(killed_at < 650, "it was dead for a while: killed after {killed_at}");
        // What fails counts for seconds under peak EWMA: it may come back later than this test ends.
        if name != "PEAK_EWMA" {
            let back = answers.of(750..1_000).from("a");
            ensure!(back >= 30, "{name}: after its return it got {back} of 250");
        }
        settles(&proxy, 1_000).await?;
        // Each of these was noticed by one request, which was then tried elsewhere.
        let (failed, retried) =
            (metric(&proxy, "upstream_cx_connect_fail").await?, metric(&proxy, "upstream_rq_retry").await?);
        ensure!(failed > 0 && retried >= failed, "{name}: {failed} found nobody, {retried} were tried again");
        ensure!(
            metric(&proxy, "upstream_rq_retry_success").await? == retried,
            "{name}: each retry was one too many or not"
        );
        proxy.finish().await?;
    }
    Ok(())
}

/// A user expects: requests that hang are tried elsewhere after the time for one try, and hardly any go there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_hangs_is_left_alone_and_its_requests_are_answered_by_others() -> anyhow::Result<()>
{
    let backends = Backend::start_all(NAMES).await?;
    let retry = json!({"retry_on": RETRY_ON, "num_retries": 2, "per_try_timeout": "1s"});
    let proxy = proxy(&backend::addresses(&backends), retry, json!({})).await?;
    let mut load = Load::start(&proxy, "front", 1_200, 600)?;
    load.sent(200).await?;
    backends[0].becomes(Conduct::Hang);
    let answers = load.end().await?;

    ensure!(answers.failed() == 0, "{} of 1200 failed", answers.failed());
    settles(&proxy, 1_200).await?;
    let hung = backends[0].asked() - answers.from("a");
    ensure!(hung > 0 && hung <= 125, "{hung} of 1000 went to the endpoint that hangs");
    // On a machine that stands still for a second, so do the other endpoints.
    let timed_out = metric(&proxy, "upstream_rq_per_try_timeout").await?;
    ensure!(timed_out >= hung, "{hung} hung and {timed_out} timed out");
    ensure!(metric(&proxy, "upstream_rq_retry").await? == timed_out, "each was tried once more");
    proxy.finish().await
}

/// A user expects: an endpoint that refuses fast does not attract load for it, and retries hide what it refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_fast_gets_hardly_anything_and_fails_no_request_that_is_retried()
-> anyhow::Result<()> {
    let backends = Backend::start_all(NAMES).await?;
    let retry = json!({"retry_on": RETRY_ON, "num_retries": 2});
    let proxy = proxy(&backend::addresses(&backends), retry, json!({})).await?;
    backends[0].becomes(Conduct::Say(503));
    let answers = Load::start(&proxy, "front", 1_000, 800)?.end().await?;

    ensure!(answers.failed() == 0, "{} of 1000 failed", answers.failed());
    settles(&proxy, 1_000).await?;
    let refused = backends[0].asked();
    ensure!(refused > 0 && refused <= 80, "{refused} of 1000 went to the endpoint that fails");
    for (name, wanted) in [
        ("upstream_rq_retry", refused),
        ("upstream_rq_retry_success", refused),
        ("upstream_rq_total", 1_000 + refused),
    ] {
        let counted = metric(&proxy, name).await?;
        ensure!(counted == wanted, "{name} is {counted}, and {wanted} is what the servers say");
    }
    proxy.finish().await
}

/// A user of outlier detection expects: five failures and those that were under way, no more, whatever the policy, and
/// without retries clients see just those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_is_ejected_and_clients_see_what_it_took_to_notice() -> anyhow::Result<()> {
    for name in POLICIES {
        let backends = Backend::start_all(NAMES).await?;
        let mut cluster = policy(name);
        cluster["outlier_detection"] =
            json!({"consecutive_5xx": 5, "base_ejection_time": "60s", "max_ejection_percent": 50});
        let proxy = proxy(&backend::addresses(&backends), json!(null), cluster).await?;
        backends[0].becomes(Conduct::Say(503));
        let answers = Load::start(&proxy, "front", 800, 800)?.end().await?;

        let (failed, refused) = (answers.failed(), backends[0].asked());
        ensure!(failed == refused, "{name}: {refused} were refused and {failed} clients know");
        // Peak EWMA may leave it alone before there are five.
        let most = if name == "PEAK_EWMA" { 1..=80 } else { 5..=80 };
        ensure!(most.contains(&failed), "{name}: {failed} of 800 failed");
        settles(&proxy, 800).await?;
        let ejected = metric(&proxy, "outlier_detection_ejections_enforced_total").await?;
        ensure!(ejected == usize::from(failed >= 5), "{name}: after {failed} failures {ejected} ejections");
        proxy.finish().await?;
    }
    Ok(())
}

/// A user expects: whoever is much slower than the others gets a part to match, not a quarter, and no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_slow_gets_a_small_part_until_it_is_fast_again() -> anyhow::Result<()> {
    let backends = Backend::start_all(NAMES).await?;
    let proxy = proxy(&backend::addresses(&backends), json!(null), json!({})).await?;
    backends[0].becomes(Conduct::Answer(Duration::from_millis(100)));
    let answers = Load::start(&proxy, "front", 1_000, 700)?.end().await?;
    ensure!(answers.failed() == 0, "{} of 1000 failed", answers.failed());
    let slow = answers.from("a");
    ensure!(slow > 0 && slow <= 125, "the slow one got {slow} of 1000");
    settles(&proxy, 1_000).await?;

    backends[0].becomes(Conduct::Answer(Duration::from_millis(4)));
    // What was slow is forgotten with the time; that it was is asked of it by more requests.
    let mut sent = 1_000;
    wait::wait_for("it has its part again", wait::LONG, || {
        let load = Load::start(&proxy, "front", 200, 700);
        sent += 200;
        async move {
            let answers = load?.end().await?;
            ensure!(answers.failed() == 0, "{} of 200 failed", answers.failed());
            Ok(each_has_its_part(&answers, 15))
        }
    })
    .await?;
    settles(&proxy, sent).await?;
    proxy.finish().await
}
