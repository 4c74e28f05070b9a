//! What the server counts.

use prometheus::{
    IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{resource::ResourceType, session::server::Variant};

/// The server's metrics; clones share them.
#[derive(Clone)]
pub(super) struct Metrics {
    proxies: IntGauge,
    streams: IntGaugeVec,
    responses: IntCounterVec,
    answers: IntCounterVec,
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
        self.responses.with_label_values(&[type_label(type_)]).inc();
    }

    pub(super) fn answered(&self, type_: ResourceType, answer: Answer) {
        let answer = match answer {
            Answer::Ack => "ack",
            Answer::Nack => "nack",
            Answer::Stale => "stale",
        };
        self.answers.with_label_values(&[type_label(type_), answer]).inc();
    }

    fn parts(&self) -> [&dyn Collector; 4] {
        [&self.proxies, &self.streams, &self.responses, &self.answers]
    }
}

impl Default for Metrics {
    fn default() -> Self {
        const VALID: &str = "names and labels are constants that follow Prometheus's rules";
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
        }
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn label(variant: Variant) -> &'static str {
    match variant {
        Variant::Delta => "delta",
        Variant::Sotw => "sotw",
    }
}

fn type_label(type_: ResourceType) -> &'static str {
    match type_ {
        ResourceType::Cluster => "cds",
        ResourceType::ClusterLoadAssignment => "eds",
        ResourceType::Secret => "sds",
        ResourceType::Listener => "lds",
        ResourceType::RouteConfiguration => "rds",
    }
}
