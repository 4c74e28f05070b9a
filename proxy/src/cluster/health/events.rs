//! The log of health checks: a line of JSON for each change, as Envoy's `HealthCheckEvent`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::probe::Probe;
use crate::{
    access_log::writer::{Chunk, Output},
    cluster::endpoint::Endpoint,
};

/// What is logged, and where.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventLog {
    pub(crate) outputs: Vec<Output>,
    /// Also checks that fail as those before them did.
    pub(crate) every_failure: bool,
    pub(crate) every_success: bool,
}

/// Why a check failed; Envoy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The endpoint answered that it is not well, or what nobody asked for.
    Active,
    /// There was no answer.
    Network,
    /// There was none in time.
    NetworkTimeout,
}

/// A result, as far as the log is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted {
    /// `None` for a success.
    pub(super) failure: Option<Failure>,
    /// Whether the endpoint was failing before, and is now.
    pub(super) before: bool,
    pub(super) failing: bool,
    /// Whether nothing was known of it before.
    pub(super) first: bool,
}

// === impl EventLog ===

impl EventLog {
    /// Logs what a result means.
    pub(super) fn note(&self, cluster: &str, endpoint: &Endpoint, probe: &Probe, noted: Noted) {
        if self.outputs.is_empty() {
            return;
        }
        for (name, event) in self.events(noted) {
            let line = line(cluster, endpoint, probe, name, event);
            for output in &self.outputs {
                output.send(Chunk { text: line.clone(), lines: 1 });
            }
        }
    }

    fn events(&self, noted: Noted) -> Vec<(&'static str, Value)> {
        let Noted { failure, before, failing, first } = noted;
        let mut events = Vec::new();
        match failure {
            None => {
                if before && !failing {
                    events.push(("add_healthy_event", json!({ "first_check": first })));
                }
                if self.every_success {
                    events.push(("successful_health_check_event", json!({})));
                }
            }
            Some(failure) => {
                let kind = failure.name();
                if failing && !before {
                    events.push(("eject_unhealthy_event", json!({ "failure_type": kind })));
                }
                if first || self.every_failure {
                    let event = json!({ "failure_type": kind, "first_check": first });
                    events.push(("health_check_failure_event", event));
                }
            }
        }
        events
    }
}

fn line(cluster: &str, endpoint: &Endpoint, probe: &Probe, name: &str, event: Value) -> Vec<u8> {
    let checker = match probe {
        Probe::Http { .. } => "HTTP",
        Probe::Tcp { .. } => "TCP",
        Probe::Grpc { .. } => "GRPC",
    };
    let address = endpoint.address;
    let mut value = json!({
        "health_checker_type": checker,
        "host": { "socket_address": {
            "protocol": "TCP",
            "address": address.ip().to_string(),
            "port_value": address.port(),
        } },
        "cluster_name": cluster,
        "timestamp": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
    });
    value[name] = event;
    let mut text = value.to_string().into_bytes();
    text.push(b'\n');
    text
}

// === impl Failure ===

impl Failure {
    fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Network => "NETWORK",
            Self::NetworkTimeout => "NETWORK_TIMEOUT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_logged_and_every_result_where_that_is_asked_for() {
        let names = |log: &EventLog, failure, before, failing, first| {
            let events = log.events(Noted { failure, before, failing, first });
            events.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let (usual, failure) = (EventLog::default(), Some(Failure::Network));
        assert_eq!(names(&usual, None, true, false, true), ["add_healthy_event"]);
        assert_eq!(names(&usual, failure, true, true, true), ["health_check_failure_event"]);
        assert_eq!(names(&usual, failure, false, true, false), ["eject_unhealthy_event"]);
        assert!(names(&usual, failure, true, true, false).is_empty());
        assert!(names(&usual, None, false, false, false).is_empty());
        let every = EventLog { every_failure: true, every_success: true, ..usual };
        let both = ["eject_unhealthy_event", "health_check_failure_event"];
        assert_eq!(names(&every, failure, false, true, false), both);
        assert_eq!(names(&every, failure, true, true, false), ["health_check_failure_event"]);
        assert_eq!(names(&every, None, false, false, false), ["successful_health_check_event"]);
    }

    #[test]
    fn a_line_is_a_health_check_event_of_envoys() {
        let endpoint = Endpoint::new(([10, 0, 0, 1], 80).into(), String::new());
        let probe = Probe::Tcp { send: Vec::new(), receive: Vec::new() };
        let text = line("web", &endpoint, &probe, "add_healthy_event", json!({ "first_check": true }));
        let line = String::from_utf8(text).expect("text");
        let mut value: Value = serde_json::from_str(line.trim_end()).expect("JSON");
        let time = value["timestamp"].take();
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
        let expected = json!({
            "health_checker_type": "TCP",
            "host": { "socket_address": { "protocol": "TCP", "address": "10.0.0.1", "port_value": 80 } },
            "cluster_name": "web",
            "timestamp": null,
            "add_healthy_event": { "first_check": true },
        });
        assert_eq!(value, expected);
    }
}
