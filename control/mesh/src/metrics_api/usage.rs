//! CPU and memory of a node and its containers: what one scrape says, and the rates between two.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use weft_discovery::model::PodId;

use super::exposition::samples;

/// What a node told at one moment.
#[derive(Debug, Clone)]
pub(super) struct Scrape {
    at: Instant,
    time: Timestamp,
    node: Counters,
    containers: BTreeMap<(PodId, String), Counters>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counters {
    /// CPU time since the start.
    cpu_seconds: Option<f64>,
    memory_bytes: Option<f64>,
    /// When it started, in seconds since 1970.
    started: Option<f64>,
}

/// The last two scrapes of a node.
#[derive(Debug, Clone)]
pub(super) struct History {
    before: Option<Scrape>,
    last: Scrape,
}

/// How much of a machine is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    /// Cores.
    pub(super) cpu: f64,
    /// Working set.
    pub(super) memory: u64,
}

// === impl Scrape ===

impl Scrape {
    /// Reads the text of `/metrics/resource`.
    pub(super) fn parse(text: &str, at: Instant, time: Timestamp) -> Self {
        let mut scrape = Self { at, time, node: Counters::default(), containers: BTreeMap::new() };
        for sample in samples(text) {
            let (of_node, field) = match sample.name {
                "node_cpu_usage_seconds_total" => (true, Field::Cpu),
                "node_memory_working_set_bytes" => (true, Field::Memory),
                "container_cpu_usage_seconds_total" => (false, Field::Cpu),
                "container_memory_working_set_bytes" => (false, Field::Memory),
                "container_start_time_seconds" => (false, Field::Started),
                _ => continue,
            };
            if !sample.value.is_finite() || sample.value < 0.0 {
                continue;
            }
            let counters = if of_node {
                &mut scrape.node
            } else {
                let pod = PodId::new(sample.label("namespace"), sample.label("pod"));
                scrape.containers.entry((pod, sample.label("container"))).or_default()
            };
            let field = match field {
                Field::Cpu => &mut counters.cpu_seconds,
                Field::Memory => &mut counters.memory_bytes,
                Field::Started => &mut counters.started,
            };
            *field = Some(sample.value);
        }
        scrape
    }

    /// How long ago this was.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

enum Field {
    Cpu,
    Memory,
    Started,
}

// === impl History ===

impl History {
    pub(super) fn new(first: Scrape) -> Self {
        Self { before: None, last: first }
    }

    /// With a further scrape.
    pub(super) fn then(self, next: Scrape) -> Self {
        Self { before: Some(self.last), last: next }
    }

    pub(super) fn last(&self) -> &Scrape {
        &self.last
    }

    /// Whether there are two scrapes, between which a rate is possible.
    pub(super) fn has_rates(&self) -> bool {
        self.before.is_some()
    }

    /// When it was measured.
    pub(super) fn time(&self) -> Timestamp {
        self.last.time
    }

    /// The time that rates are over.
    pub(super) fn window(&self) -> Duration {
        self.before
            .as_ref()
            .map_or(Duration::ZERO, |before| self.last.at.saturating_duration_since(before.at))
    }

    /// Of the whole node.
    pub(super) fn node(&self) -> Option<Usage> {
        self.usage(&self.last.node, self.before.as_ref().map(|before| &before.node))
    }

    /// Of the containers of a pod, by name; empty if the node does not know it, or not for long enough.
    pub(super) fn pod(&self, pod: &PodId) -> Vec<(&str, Usage)> {
        let first = (pod.clone(), String::new());
        let of_pod = self.last.containers.range(first..).take_while(|((of, _), _)| of == pod);
        let with_usage = of_pod.filter_map(|(key, counters)| {
            let before = self.before.as_ref().and_then(|before| before.containers.get(key));
            Some((key.1.as_str(), self.usage(counters, before)?))
        });
        with_usage.collect()
    }

    fn usage(&self, last: &Counters, before: Option<&Counters>) -> Option<Usage> {
        let cpu = last.cpu_seconds?;
        let since_before = before.and_then(|before| before.cpu_seconds).map(|old| (cpu - old, self.window()));
        let (spent, over) = match since_before {
            // A counter that went back belongs to a container that was started again.
            Some((spent, over)) if spent >= 0.0 => (spent, over),
            // The first scrape of a container: the rate since it started, where that is known.
            _ => {
                let lived = self.last.time.as_duration().as_secs_f64() - last.started?;
                (cpu, Duration::try_from_secs_f64(lived).ok()?)
            }
        };
        if over.is_zero() {
            return None;
        }
        // Truncation of a float is defined, also for what no memory has.
        Some(Usage { cpu: spent / over.as_secs_f64(), memory: last.memory_bytes? as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: f64, web: f64) -> String {
        format!(
            "node_cpu_usage_seconds_total {node}\nnode_memory_working_set_bytes 1e9\n\
             container_cpu_usage_seconds_total{{container=\"web\",namespace=\"default\",pod=\"web-1\"}} {web}\n\
             container_memory_working_set_bytes{{container=\"web\",namespace=\"default\",pod=\"web-1\"}} 2048\n\
             container_cpu_usage_seconds_total{{container=\"web\",namespace=\"default\",pod=\"web-10\"}} 1\n"
        )
    }

    fn history(texts: [String; 2]) -> History {
        let (start, time) = (Instant::now(), Timestamp::from_second(1_700_000_000).unwrap());
        let [first, second] = texts;
        let later = start + Duration::from_secs(10);
        let second = Scrape::parse(&second, later, time + Duration::from_secs(10));
        History::new(Scrape::parse(&first, start, time)).then(second)
    }

    fn web() -> PodId {
        PodId::new("default", "web-1")
    }

    #[test]
    fn cpu_is_the_rate_between_two_scrapes() {
        let history = history([text(100.0, 5.0), text(105.0, 7.5)]);
        assert_eq!(history.node(), Some(Usage { cpu: 0.5, memory: 1_000_000_000 }));
        assert_eq!(history.pod(&web()), [("web", Usage { cpu: 0.25, memory: 2048 })]);
        assert_eq!(history.window(), Duration::from_secs(10));
        assert_eq!(history.pod(&PodId::new("default", "web")), []);
    }

    #[test]
    fn a_container_that_restarted_or_is_new_counts_from_its_start_or_not_at_all() {
        let restarted = history([text(1.0, 50.0), text(2.0, 1.0)]);
        assert_eq!(restarted.pod(&web()), []);
        let started = "container_start_time_seconds{container=\"web\",namespace=\"default\",pod=\"web-1\"} 1700000006\n";
        let restarted = history([text(1.0, 50.0), text(2.0, 1.0) + started]);
        assert_eq!(restarted.pod(&web()), [("web", Usage { cpu: 0.25, memory: 2048 })]);
    }

    #[test]
    fn one_scrape_gives_no_rate() {
        let history = History::new(Scrape::parse(&text(1.0, 1.0), Instant::now(), Timestamp::now()));
        assert!(history.node().is_none() && history.pod(&web()).is_empty() && !history.has_rates());
    }
}
