//! What the server counts.

use std::{collections::BTreeMap, time::Duration};

use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{
    resource::ResourceType,
    session::server::{SyncState, Variant},
};

/// Why they cannot be refused.
const VALID: &str = "names and labels are constants that follow Prometheus's rules";

/// Seconds, from what a proxy on the same machine needs to where one is given up.
const ACK_BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The server's metrics; clones share them.
#[derive(Clone)]
pub(super) struct Metrics {
    proxies: IntGauge,
    streams: IntGaugeVec,
    responses: IntCounterVec,
    answers: IntCounterVec,
    ack: HistogramVec,
    overdue: IntCounterVec,
    by_state: IntGaugeVec,
    oldest: Gauge,
    laggards: IntGauge,
}

/// What is looked up when the metrics are read.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Proxies, by the worst state of any type.
    pub(super) proxies: BTreeMap<SyncState, usize>,
    /// How long the oldest unanswered change waits.
    pub(super) oldest: Duration,
    /// Proxies that owe an answer for long.
    pub(super) laggards: usize,
}

/// The metrics together with what is looked up when they are read.
struct WithGauges<F> {
    metrics: Metrics,
    look_up: F,
}

/// What a client made of a response.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    Ack,
    Nack,
    Stale,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn stream_opened(&self, variant: Variant) {
        self.streams.with_label_values(&[label(variant)]).inc();
    }

    pub(super) fn stream_closed(&self, variant: Variant) {
        self.streams.with_label_values(&[label(variant)]).dec();
    }

    pub(super) fn proxies(&self, connected: usize) {
        self.proxies.set(i64::try_from(connected).unwrap_or(i64::MAX));
    }

    pub(super) fn sent(&self, type_: ResourceType) {
        self.responses.with_label_values(&[type_.service()]).inc();
    }

    pub(super) fn answered(&self, type_: ResourceType, answer: Answer) {
        let answer = match answer {
            Answer::Ack => "ack",
            Answer::Nack => "nack",
            Answer::Stale => "stale",
        };
        self.answers.with_label_values(&[type_.service(), answer]).inc();
    }

    /// A response was answered after this time.
    pub(super) fn took(&self, type_: ResourceType, took: Duration) {
        self.ack.with_label_values(&[type_.service()]).observe(took.as_secs_f64());
    }

    /// A stream is ended because a response was not answered.
    pub(super) fn overdue(&self, type_: ResourceType) {
        self.overdue.with_label_values(&[type_.service()]).inc();
    }

    /// A collector that calls `look_up` whenever it is read.
    pub(super) fn with_gauges(
        self,
        look_up: impl Fn() -> Gauges + Send + Sync + 'static,
    ) -> impl Collector + 'static {
        WithGauges { metrics: self, look_up }
    }

    fn parts(&self) -> [&dyn Collector; 9] {
        [
            &self.proxies,
            &self.streams,
            &self.responses,
            &self.answers,
            &self.ack,
            &self.overdue,
            &self.by_state,
            &self.oldest,
            &self.laggards,
        ]
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            proxies: IntGauge::new("weft_xds_proxies", "Proxies with an open stream").expect(VALID),
            streams: IntGaugeVec::new(Opts::new("weft_xds_streams", "Open streams"), &["variant"])
                .expect(VALID),
            responses: IntCounterVec::new(
                Opts::new("weft_xds_responses_total", "Responses sent to proxies"),
                &["type"],
            )
            .expect(VALID),
            answers: IntCounterVec::new(
                Opts::new("weft_xds_answers_total", "What proxies made of responses"),
                &["type", "answer"],
            )
            .expect(VALID),
            ack: HistogramVec::new(
                HistogramOpts::new("weft_xds_ack_seconds", "From a response to the proxy's answer")
                    .buckets(ACK_BUCKETS.to_vec()),
                &["type"],
            )
            .expect(VALID),
            overdue: overdue(),
            by_state: IntGaugeVec::new(
                Opts::new("weft_xds_proxies_by_state", "Connected proxies, by the worst state of any type"),
                &["state"],
            )
            .expect(VALID),
            oldest: Gauge::new(
                "weft_xds_oldest_unanswered_seconds",
                "Age of the oldest change that a connected proxy has not answered",
            )
            .expect(VALID),
            laggards: IntGauge::new(
                "weft_xds_laggards",
                "Connected proxies that have not answered a change for more than a second",
            )
            .expect(VALID),
        }
    }
}

// === impl WithGauges ===

impl<F: Fn() -> Gauges + Send + Sync> Collector for WithGauges<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.metrics.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Gauges { proxies, oldest, laggards } = (self.look_up)();
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for (state, label) in [
            (SyncState::Synced, "synced"),
            (SyncState::NotSent, "not_sent"),
            (SyncState::Stale, "stale"),
            (SyncState::Refused, "refused"),
        ] {
            let found = proxies.get(&state).copied().unwrap_or_default();
            self.metrics.by_state.with_label_values(&[label]).set(number(found));
        }
        self.metrics.oldest.set(oldest.as_secs_f64());
        self.metrics.laggards.set(number(laggards));
        self.metrics.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn label(variant: Variant) -> &'static str {
    match variant {
        Variant::Delta => "delta",
        Variant::Sotw => "sotw",
    }
}

/// From zero on for all types: who watches a counter misses what it was before its first value.
fn overdue() -> IntCounterVec {
    let help = "Streams that were ended because a response was not answered in time";
    let counts =
        IntCounterVec::new(Opts::new("weft_xds_streams_overdue_total", help), &["type"]).expect(VALID);
    for type_ in ResourceType::ALL {
        counts.with_label_values(&[type_.service()]);
    }
    counts
}
