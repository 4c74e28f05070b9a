//! h2load, and what came of it.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::process::Command;
use weft_tests::process;

use crate::load::Report;

/// Where h2load is.
pub fn find() -> anyhow::Result<PathBuf> {
    process::find("h2load", "nghttp2-client")
}

/// Runs a command that ends in h2load against `url`: HTTP/2 by prior knowledge.
pub async fn run(
    mut command: Command,
    url: &str,
    connections: u32,
    streams: u32,
    length: Duration,
) -> anyhow::Result<Report> {
    command.args(["-t1", &format!("-c{connections}"), &format!("-m{streams}")]);
    command.args([&format!("-D{}", length.as_secs().max(1)), url]);
    let text = process::run(&mut command).await?;
    parse(&text).with_context(|| format!("h2load printed no report:\n{text}"))
}

/// `requests: 9 total, 9 started, 9 done, 8 succeeded, 1 failed, …`; a status of 400 or more has failed.
fn parse(text: &str) -> Option<Report> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |name: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(name))?;
        part.trim().parse::<u64>().ok()
    };
    let succeeded = count(" succeeded")?;
    let rate = text.lines().find_map(|line| line.strip_prefix("finished in "))?;
    let rate: f64 = rate.split(", ").find_map(|part| part.strip_suffix(" req/s"))?.trim().parse().ok()?;
    Some(Report {
        done: succeeded,
        failed: count(" failed")?,
        seconds: if rate > 0.0 { succeeded as f64 / rate } else { 0.0 },
        ..Report::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_report_with_failures() {
        let text = "starting benchmark...\n\nfinished in 2.00s, 500.00 req/s, 1.00MB/s\nrequests: 1010 total, 1010 started, \
                    1005 done, 1000 succeeded, 5 failed, 5 errored, 0 timeout\nstatus codes: 1000 2xx\n";
        let report = parse(text).expect("complete");
        assert_eq!((report.done, report.failed), (1000, 5));
        assert!((report.seconds - 2.0).abs() < 1e-9);
        assert_eq!(parse("no such host"), None);
    }
}
