//! What is found by comparing endpoints, once per interval.

use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::Ordering},
};

use super::{Comparison, Detector};
use crate::cluster::{Cluster, endpoint::Endpoint};

/// What an endpoint had counted at the end of an interval.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    success: u64,
    error: u64,
    local: u64,
}

/// What it did within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tally {
    requests: u64,
    failures: u64,
}

/// Compares the endpoints of a cluster again and again, until the cluster is gone.
pub(crate) async fn run(cluster: Weak<Cluster>) {
    let Some(interval) =
        cluster.upgrade().and_then(|cluster| Some(cluster.outlier.as_ref()?.settings.interval))
    else {
        return;
    };
    let mut seen: HashMap<u64, Seen> = HashMap::new();
    loop {
        tokio::time::sleep(interval).await;
        let Some(cluster) = cluster.upgrade() else { return };
        look(&cluster, &mut seen);
    }
}

fn look(cluster: &Cluster, seen: &mut HashMap<u64, Seen>) {
    let Some(outlier) = &cluster.outlier else { return };
    let set = cluster.endpoints.load();
    let (mut answers, mut connections) = (Vec::new(), Vec::new());
    let mut now = HashMap::with_capacity(set.hosts.len());
    for host in &set.hosts {
        let endpoint = &host.endpoint;
        let current = Seen::of(endpoint);
        now.insert(endpoint.id, current);
        if endpoint.is_ejected() {
            continue;
        }
        forgive(endpoint);
        // What came before the first look belongs to no interval.
        let Some(before) = seen.get(&endpoint.id) else { continue };
        let (external, local) = before.tallies(current, outlier.settings.split);
        answers.push((endpoint, external));
        connections.push((endpoint, local));
    }
    *seen = now;
    let mut kinds = vec![(answers, Detector::SuccessRate, Detector::FailurePercentage)];
    if outlier.settings.split {
        let local = (Detector::LocalOriginSuccessRate, Detector::LocalOriginFailurePercentage);
        kinds.push((connections, local.0, local.1));
    }
    for (endpoints, by_rate, by_percentage) in kinds {
        let tallies: Vec<Tally> = endpoints.iter().map(|(_, tally)| *tally).collect();
        for (found, detector) in [
            (below_the_others(&tallies, outlier.settings.success_rate), by_rate),
            (above_the_percentage(&tallies, outlier.settings.failure_percentage), by_percentage),
        ] {
            for index in found {
                let endpoint: &Arc<Endpoint> = endpoints[index].0;
                outlier.detected(cluster, endpoint, detector);
            }
        }
    }
}

/// An interval outside shortens the next ejection.
fn forgive(endpoint: &Endpoint) {
    let lowered = |times: u32| times.checked_sub(1);
    // Zero stays: there is nothing to forgive.
    let _ = endpoint.monitor.ejections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lowered);
}

/// Those whose success rate is too far below the mean of all (Envoy's success rate detection).
fn below_the_others(tallies: &[Tally], comparison: Comparison) -> Vec<usize> {
    let rates: Vec<(usize, f64)> =
        enough(tallies, comparison).map(|(index, tally)| (index, 100.0 - tally.percentage())).collect();
    if rates.len() < comparison.hosts.max(1) {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let threshold = mean - variance.sqrt() * f64::from(comparison.threshold) / 1_000.0;
    rates.into_iter().filter(|(_, rate)| *rate < threshold).map(|(index, _)| index).collect()
}

/// Those who fail too often, whatever the others do.
fn above_the_percentage(tallies: &[Tally], comparison: Comparison) -> Vec<usize> {
    if enough(tallies, comparison).count() < comparison.hosts {
        return Vec::new();
    }
    enough(tallies, comparison)
        .filter(|(_, tally)| tally.percentage() >= f64::from(comparison.threshold))
        .map(|(index, _)| index)
        .collect()
}

fn enough(tallies: &[Tally], comparison: Comparison) -> impl Iterator<Item = (usize, &Tally)> {
    tallies.iter().enumerate().filter(move |(_, tally)| tally.requests >= comparison.requests.max(1))
}

// === impl Seen ===

impl Seen {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            success: endpoint.stats.rq_success.load(Ordering::Relaxed),
            error: endpoint.stats.rq_error.load(Ordering::Relaxed),
            local: endpoint.monitor.local_failures.load(Ordering::Relaxed),
        }
    }

    /// What happened until `now`: by answers, and by whether there were answers.
    fn tallies(self, now: Self, split: bool) -> (Tally, Tally) {
        let errors = now.error.saturating_sub(self.error);
        let all = now.success.saturating_sub(self.success) + errors;
        // The three are not read at one moment.
        let local = now.local.saturating_sub(self.local).min(errors);
        let apart = if split { local } else { 0 };
        (Tally { requests: all - apart, failures: errors - apart }, Tally { requests: all, failures: local })
    }
}

// === impl Tally ===

impl Tally {
    fn percentage(self) -> f64 {
        self.failures as f64 * 100.0 / self.requests as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(failures: &[u64]) -> Vec<Tally> {
        failures.iter().map(|failures| Tally { requests: 100, failures: *failures }).collect()
    }

    #[test]
    fn who_succeeds_much_less_than_the_others_is_found() {
        let comparison = Comparison { hosts: 5, requests: 100, threshold: 1_900 };
        assert_eq!(below_the_others(&tallies(&[1, 0, 2, 1, 0, 40]), comparison), [5]);
        assert!(below_the_others(&tallies(&[1, 0, 2, 1, 0, 2]), comparison).len() <= 1);
        assert_eq!(below_the_others(&tallies(&[50, 50, 50, 50, 50]), comparison), [0usize; 0], "all alike");
        assert_eq!(below_the_others(&tallies(&[0, 0, 0, 90]), comparison), [0usize; 0], "too few");
        let busy = Comparison { requests: 101, ..comparison };
        assert_eq!(below_the_others(&tallies(&[1, 0, 2, 1, 0, 40]), busy), [0usize; 0], "too little traffic");
    }

    #[test]
    fn who_fails_too_often_is_found_even_if_all_do() {
        let comparison = Comparison { hosts: 2, requests: 50, threshold: 85 };
        assert_eq!(above_the_percentage(&tallies(&[84, 85, 100]), comparison), [1, 2]);
        assert_eq!(above_the_percentage(&tallies(&[100]), comparison), [0usize; 0]);
    }

    #[test]
    fn failures_without_an_answer_are_told_apart_when_split() {
        let before = Seen { success: 10, error: 5, local: 1 };
        let now = Seen { success: 100, error: 15, local: 5 };
        let (external, local) = before.tallies(now, true);
        assert_eq!(external, Tally { requests: 96, failures: 6 });
        assert_eq!(local, Tally { requests: 100, failures: 4 });
        assert_eq!(before.tallies(now, false).0, Tally { requests: 100, failures: 10 });
    }
}
