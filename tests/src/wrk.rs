//! wrk: load, and what came of it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

use crate::process;

/// wrk running in the background.
#[derive(Debug)]
pub struct Running {
    finished: JoinHandle<anyhow::Result<String>>,
}

/// What wrk counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Requests that were answered, whatever the status.
    pub requests: u64,
    /// Per second.
    pub rate: f64,
    /// Answers with a status of 400 or more, as wrk counts.
    pub bad_status: u64,
    /// Connections that could not be made, broke on read, broke on write, or timed out.
    pub connect_errors: u64,
    /// See above.
    pub read_errors: u64,
    /// See above.
    pub write_errors: u64,
    /// See above.
    pub timeouts: u64,
    /// Half of the requests took no longer.
    pub p50: Duration,
    /// 99 of 100 requests took no longer.
    pub p99: Duration,
}

/// Where wrk is.
pub fn find() -> anyhow::Result<PathBuf> {
    process::find("wrk", "wrk")
}

/// Starts `wrk -t1` against `url`.
pub fn start(wrk: &Path, url: &str, connections: u32, length: Duration) -> anyhow::Result<Running> {
    start_with(Command::new(wrk), url, connections, length)
}

/// The same with a command that ends in wrk: one that pins it to a core, for example.
pub fn start_with(
    mut command: Command,
    url: &str,
    connections: u32,
    length: Duration,
) -> anyhow::Result<Running> {
    let child: Child = command
        .args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{}s", length.as_secs()), url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start wrk")?;
    let finished = tokio::spawn(async move {
        let output = child.wait_with_output().await.context("cannot wait for wrk")?;
        Ok(process::text(&output))
    });
    Ok(Running { finished })
}

// === impl Running ===

impl Running {
    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !self.finished.is_finished()
    }

    /// Waits for its end and reads its report.
    pub async fn report(self) -> anyhow::Result<Report> {
        let text = self.finished.await.context("the task that waits for wrk panicked")??;
        Report::parse(&text).with_context(|| format!("wrk printed no report:\n{text}"))
    }
}

// === impl Report ===

impl Report {
    /// Requests that failed in any way.
    pub fn failed(&self) -> u64 {
        self.bad_status + self.connect_errors + self.read_errors + self.write_errors + self.timeouts
    }

    fn parse(text: &str) -> Option<Self> {
        let mut report = Self::default();
        let mut complete = false;
        for line in text.lines().map(str::trim) {
            let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
            match words.as_slice() {
                [requests, "requests", "in", ..] => report.requests = requests.parse().ok()?,
                ["Requests/sec:", rate] => {
                    report.rate = rate.parse().ok()?;
                    complete = true;
                }
                ["50%", p50] => report.p50 = duration(p50)?,
                ["99%", p99] => report.p99 = duration(p99)?,
                ["Non-2xx", ..] => report.bad_status = words.last()?.parse().ok()?,
                [
                    "Socket",
                    "errors:",
                    "connect",
                    connect,
                    "read",
                    read,
                    "write",
                    write,
                    "timeout",
                    timeout,
                ] => {
                    report.connect_errors = connect.parse().ok()?;
                    report.read_errors = read.parse().ok()?;
                    report.write_errors = write.parse().ok()?;
                    report.timeouts = timeout.parse().ok()?;
                }
                _ => {}
            }
        }
        complete.then_some(report)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {:.0}/s, {} failed (status {}, connect {}, read {}, write {}, timeout {})",
            self.requests,
            self.rate,
            self.failed(),
            self.bad_status,
            self.connect_errors,
            self.read_errors,
            self.write_errors,
            self.timeouts
        )
    }
}

/// wrk's `1.23ms`, `45.00us` and `1.01s`.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_report_with_errors() {
        let text = "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 4 connections\n  \
                    Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.00ms    1.00ms  10.00ms   90.00%\n  \
                    Latency Distribution\n     50%  950.00us\n     99%    1.20ms\n  1234 requests in 1.10s, 1.00MB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  \
                    Non-2xx or 3xx responses: 5\nRequests/sec:   1121.82\nTransfer/sec:      0.91MB\n";
        let report = Report::parse(text).expect("complete");
        assert_eq!((report.requests, report.failed(), report.bad_status), (1234, 15, 5));
        assert_eq!((report.p50, report.p99), (Duration::from_micros(950), Duration::from_micros(1200)));
        assert!((report.rate - 1121.82).abs() < 1e-9);
        assert_eq!(Report::parse("unable to connect to 127.0.0.1:1 Connection refused"), None);
    }
}
