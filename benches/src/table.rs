//! From rounds to the printed table.

use std::{collections::BTreeMap, fmt, time::Duration};

/// One run of the load against one proxy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Requests per second.
    pub rate: f64,
    /// CPU microseconds of the proxy per request.
    pub cpu_per_request: f64,
    /// Median latency.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Resident memory of the proxy right after the run.
    pub resident_kb: u64,
    /// Requests that failed.
    pub failed: u64,
}

/// All runs, by connections and proxy.
#[derive(Debug, Default)]
pub struct Table {
    runs: BTreeMap<u32, BTreeMap<usize, Vec<Run>>>,
    names: Vec<String>,
}

// === impl Table ===

impl Table {
    /// A table whose rows are `names`, in that order.
    pub fn new(names: Vec<String>) -> Self {
        Self { runs: BTreeMap::new(), names }
    }

    /// Adds one run of the proxy with this index.
    pub fn add(&mut self, connections: u32, proxy: usize, run: Run) {
        self.runs.entry(connections).or_default().entry(proxy).or_default().push(run);
    }
}

impl fmt::Display for Table {
    /// Medians over the rounds; failed requests are summed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (connections, proxies) in &self.runs {
            writeln!(f, "\n{connections} connections, HTTP/1.1 keep-alive")?;
            writeln!(
                f,
                "  {:<12} {:>10} {:>12} {:>10} {:>10} {:>9} {:>7}",
                "proxy", "req/s", "CPU µs/req", "p50 ms", "p99 ms", "RSS MB", "failed"
            )?;
            for (proxy, runs) in proxies {
                let name = self.names.get(*proxy).map_or("?", String::as_str);
                writeln!(
                    f,
                    "  {name:<12} {:>10.0} {:>12.2} {:>10.2} {:>10.2} {:>9.1} {:>7}",
                    median(runs, |run| run.rate),
                    median(runs, |run| run.cpu_per_request),
                    median(runs, |run| run.p50.as_secs_f64() * 1e3),
                    median(runs, |run| run.p99.as_secs_f64() * 1e3),
                    median(runs, |run| run.resident_kb as f64 / 1024.0),
                    runs.iter().map(|run| run.failed).sum::<u64>(),
                )?;
            }
            self.ratios(f, proxies)?;
        }
        Ok(())
    }
}

impl Table {
    /// CPU per request of the first row over each other row: what the targets are stated in.
    fn ratios(&self, f: &mut fmt::Formatter<'_>, proxies: &BTreeMap<usize, Vec<Run>>) -> fmt::Result {
        let cpu = |runs: &Vec<Run>| median(runs, |run| run.cpu_per_request);
        let Some(ours) = proxies.get(&0).map(cpu).filter(|cpu| *cpu > 0.0) else { return Ok(()) };
        let others = proxies.iter().filter(|(proxy, _)| **proxy != 0);
        let ratios: Vec<String> = others
            .filter_map(|(proxy, runs)| {
                let theirs = cpu(runs);
                let name = self.names.get(*proxy)?;
                (theirs > 0.0).then(|| format!("{:.2} of {name}", ours / theirs))
            })
            .collect();
        if ratios.is_empty() {
            Ok(())
        } else {
            writeln!(f, "  CPU per request of weft: {}", ratios.join(", "))
        }
    }
}

fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64, cpu: f64) -> Run {
        let latency = Duration::from_millis(1);
        Run { rate, cpu_per_request: cpu, p50: latency, p99: latency, resident_kb: 2048, failed: 1 }
    }

    #[test]
    fn rows_show_medians_and_the_ratio_to_each_peer() {
        let mut table = Table::new(vec!["weft".into(), "nginx".into()]);
        for (ours, theirs) in [(10.0, 20.0), (12.0, 24.0), (99.0, 24.0)] {
            table.add(16, 0, run(1000.0, ours));
            table.add(16, 1, run(900.0, theirs));
        }
        let text = table.to_string();
        assert!(text.contains("16 connections"), "{text}");
        assert!(text.contains("12.00"), "the median, not the mean: {text}");
        assert!(text.contains("0.50 of nginx"), "{text}");
        assert!(text.contains(" 3\n"), "failures are summed: {text}");
    }
}
