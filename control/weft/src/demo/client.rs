//! The caller: a steady trickle of requests to `web`, and a line every few seconds about what came back.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use tokio::time::MissedTickBehavior;
use weft_kit::error::chain;

use super::{
    server::stop_signal,
    upstream::{CallError, Upstream},
};

/// 20 requests per second.
const PERIOD: Duration = Duration::from_millis(50);
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// What came back since the last report.
#[derive(Debug, Default)]
struct Tally {
    latencies: Vec<Duration>,
    failed: u64,
    last_failure: Option<String>,
    /// Answers by the replica that gave them.
    replicas: BTreeMap<String, u64>,
}

pub(super) async fn run() -> anyhow::Result<()> {
    let web = Upstream::from_env("web");
    let mut stop = std::pin::pin!(stop_signal()?);
    let mut next_call = tokio::time::interval(PERIOD);
    next_call.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_report = tokio::time::interval_at(tokio::time::Instant::now() + REPORT_EVERY, REPORT_EVERY);
    let mut tally = Tally::default();
    println!("client calls web every {} ms", PERIOD.as_millis());
    loop {
        // The call in hand ends before the signal is looked at: nothing is cut off.
        tokio::select! {
            () = &mut stop => break,
            _ = next_report.tick() => println!("{}", std::mem::take(&mut tally)),
            _ = next_call.tick() => {
                let started = Instant::now();
                let outcome = web.get("/").await;
                tally.count(started.elapsed(), outcome);
            }
        }
    }
    println!("{tally}");
    println!("client is done");
    Ok(())
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, took: Duration, outcome: Result<(StatusCode, Bytes), CallError>) {
        match outcome {
            Ok((StatusCode::OK, body)) => {
                self.latencies.push(took);
                *self.replicas.entry(replica(&String::from_utf8_lossy(&body))).or_default() += 1;
            }
            Ok((status, _)) => self.fail(format!("status {status}")),
            Err(error) => self.fail(chain(&error)),
        }
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.last_failure = Some(why);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let percentile =
            |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1)));
        write!(f, "{} ok, {} failed", sorted.len(), self.failed)?;
        if let (Some(p50), Some(p99)) = (percentile(50), percentile(99)) {
            write!(f, ", p50 {:.1} ms, p99 {:.1} ms", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3)?;
        }
        for (replica, count) in &self.replicas {
            write!(f, ", {replica} {count}")?;
        }
        match &self.last_failure {
            Some(why) => write!(f, "; last failure: {why}"),
            None => Ok(()),
        }
    }
}

/// The pod name in what `web` answers: `GREETING from POD; api says …`.
fn replica(answer: &str) -> String {
    let after = answer.rsplit_once(" from ").map_or(answer, |(_, rest)| rest);
    after.split(';').next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replica_is_found_in_the_answer() {
        assert_eq!(replica("hello from web-1; api says {\"pod\":\"api-1\"}\n"), "web-1");
        assert_eq!(replica("greetings from afar from web-2; api says x"), "web-2");
        assert_eq!(replica("something else"), "something else");
    }

    #[test]
    fn a_report_names_failures_and_replicas() {
        let mut tally = Tally::default();
        assert_eq!(tally.to_string(), "0 ok, 0 failed");
        let answer = Bytes::from_static(b"hi from web-1; api says {}");
        tally.count(Duration::from_millis(2), Ok((StatusCode::OK, answer)));
        tally.count(Duration::from_millis(1), Ok((StatusCode::BAD_GATEWAY, Bytes::new())));
        assert_eq!(
            tally.to_string(),
            "1 ok, 1 failed, p50 2.0 ms, p99 2.0 ms, web-1 1; last failure: status 502 Bad Gateway"
        );
    }
}
