//! One caller's reports about one endpoint, over a sliding window.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use weft_xds::load::EndpointLoad;

use super::{Load, WINDOW};

/// Reports that are kept. With an interval of a second or more, a window holds no more; a caller that reports more
/// often is averaged over a shorter time.
const MAX_REPORTS: usize = 32;

/// The reports of the window, oldest first.
#[derive(Debug, Default)]
pub(super) struct Window {
    reports: VecDeque<Report>,
    in_flight: u64,
}

#[derive(Debug, Clone, Copy)]
struct Report {
    at: Instant,
    /// When the time that it covers began.
    since: Instant,
    issued: u64,
    succeeded: u64,
    errored: u64,
    latency: Duration,
}

// === impl Window ===

impl Window {
    pub(super) fn add(&mut self, load: &EndpointLoad, interval: Duration, now: Instant) {
        if self.reports.len() == MAX_REPORTS {
            self.reports.pop_front();
        }
        // A proxy that says that it covers ages covers a window at most.
        let since = now.checked_sub(interval.min(WINDOW)).unwrap_or(now);
        self.reports.push_back(Report {
            at: now,
            since,
            issued: load.issued,
            succeeded: load.succeeded,
            errored: load.errored,
            latency: load.latency,
        });
        self.in_flight = load.in_progress;
    }

    pub(super) fn nothing_in_flight(&mut self) {
        self.in_flight = 0;
    }

    /// The averages up to `now`; `None` if the last report is older than the window.
    ///
    /// Time without a report counts as time without requests: callers leave out what did nothing.
    pub(super) fn load(&self, now: Instant) -> Option<Load> {
        let fresh = |report: &&Report| now.saturating_duration_since(report.at) < WINDOW;
        let first = self.reports.iter().find(fresh)?;
        let covered =
            now.saturating_duration_since(first.since).clamp(Duration::from_secs(1), WINDOW).as_secs_f64();
        let mut load = Load { in_flight: self.in_flight, ..Load::default() };
        for report in self.reports.iter().filter(fresh) {
            load.requests_per_second += report.issued as f64 / covered;
            load.errors_per_second += report.errored as f64 / covered;
            load.ended_per_second += report.errored.saturating_add(report.succeeded) as f64 / covered;
            load.latency_per_second += report.latency.as_secs_f64() / covered;
        }
        Some(load)
    }
}
