//! Wishes about how the mesh treats a service, from the service's annotations.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::json;
use weft_api::mesh::BALANCER;
use weft_xds::{
    json::{self, Format},
    pb::envoy::config::route::v3::{Route, VirtualHost},
};

/// The longest time from connecting to an endpoint to giving up on it: a [`Duration`].
pub const CONNECT_TIMEOUT: &str = "weft.dev/connect-timeout";
/// The longest time that a request may take, retries included: a [`Duration`]; without it there is no limit.
pub const REQUEST_TIMEOUT: &str = "weft.dev/request-timeout";
/// How often a request that reached no endpoint is tried again at others: 0 to [`MAX_RETRIES`].
pub const RETRIES: &str = "weft.dev/retries";
/// Routes of Envoy's configuration language (a list, YAML or JSON) in place of the one that sends all requests to the
/// service. The timeout and the retries are then those of the routes. What a route means is for the proxies to judge.
pub const ROUTES: &str = "weft.dev/routes";

/// More retries than this multiply an overload instead of hiding a failure.
pub const MAX_RETRIES: u32 = 10;
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// How requests to a service are treated.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePolicy {
    /// How an endpoint is chosen.
    pub balancer: Balancer,
    /// See [`CONNECT_TIMEOUT`]; 5 s, Envoy's default.
    pub connect_timeout: Duration,
    /// See [`REQUEST_TIMEOUT`].
    pub request_timeout: Option<Duration>,
    /// See [`RETRIES`]; 2.
    pub retries: u32,
    /// See [`ROUTES`]; empty for none.
    pub routes: Vec<Route>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancer {
    /// Each in its turn.
    RoundRobin,
    /// The better of two by latency and requests in flight.
    PeakEwma,
}

/// An annotation that cannot be followed; the default stays in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyProblem {
    /// The annotation.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub expected: String,
}

// === impl ServicePolicy ===

impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            balancer: Balancer::RoundRobin,
            connect_timeout: Duration::from_secs(5),
            request_timeout: None,
            retries: 2,
            routes: Vec::new(),
        }
    }
}

impl ServicePolicy {
    /// Reads the annotations of the mesh; whatever cannot be followed is told and left at its default.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> (Self, Vec<PolicyProblem>) {
        let mut policy = Self::default();
        let mut problems = Vec::new();
        for (key, value) in annotations {
            if let Err(expected) = policy.set(key, value) {
                problems.push(PolicyProblem { key: key.clone(), value: value.clone(), expected });
            }
        }
        (policy, problems)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            BALANCER => {
                self.balancer = match value {
                    "round-robin" => Balancer::RoundRobin,
                    "peak-ewma" => Balancer::PeakEwma,
                    _ => return Err("round-robin or peak-ewma".to_owned()),
                }
            }
            CONNECT_TIMEOUT => self.connect_timeout = duration(value)?,
            REQUEST_TIMEOUT => self.request_timeout = Some(duration(value)?),
            RETRIES => {
                let number = value.parse().ok().filter(|number| *number <= MAX_RETRIES);
                self.retries = number.ok_or_else(|| format!("a number from 0 to {MAX_RETRIES}"))?;
            }
            ROUTES => self.routes = routes(value)?,
            _ => {
                return Err(format!(
                    "no such annotation; there are {BALANCER}, {CONNECT_TIMEOUT}, {REQUEST_TIMEOUT}, {RETRIES} and \
                     {ROUTES}"
                ));
            }
        }
        Ok(())
    }
}

/// `250ms`, `5s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "a duration such as 250ms, 5s or 2m, longer than nothing and at most a day".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        _ => None,
    };
    let duration = Duration::from_millis(milliseconds.ok_or_else(expected)?);
    if duration.is_zero() || duration > MAX_DURATION { Err(expected()) } else { Ok(duration) }
}

/// A list of at least one route.
fn routes(text: &str) -> Result<Vec<Route>, String> {
    let expected = |error: json::ConfigError| format!("a list of Envoy's routes ({error})");
    let list = json::parse_value(text, Format::Auto).map_err(expected)?;
    let host: VirtualHost = json::from_json(&json!({ "routes": list })).map_err(expected)?;
    if host.routes.is_empty() { Err("at least one route".to_owned()) } else { Ok(host.routes) }
}

// === impl PolicyProblem ===

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {}: {:?} is not valid, expected {}", self.key, self.value, self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (ServicePolicy, Vec<PolicyProblem>) {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ServicePolicy::from_annotations(&pairs.collect())
    }

    #[test]
    fn valid_wishes_are_followed() {
        let (policy, problems) = read(&[
            (BALANCER, "peak-ewma"),
            (CONNECT_TIMEOUT, "250ms"),
            (REQUEST_TIMEOUT, "2m"),
            (RETRIES, "0"),
        ]);
        assert_eq!(problems, []);
        assert_eq!(
            policy,
            ServicePolicy {
                balancer: Balancer::PeakEwma,
                connect_timeout: Duration::from_millis(250),
                request_timeout: Some(Duration::from_secs(120)),
                retries: 0,
                routes: Vec::new(),
            }
        );
    }

    #[test]
    fn an_invalid_wish_is_named_and_the_default_stays() {
        for (key, value) in [
            (BALANCER, "random"),
            (BALANCER, ""),
            (CONNECT_TIMEOUT, "5"),
            (CONNECT_TIMEOUT, "0s"),
            (CONNECT_TIMEOUT, "-1s"),
            (REQUEST_TIMEOUT, "99999999999999999999s"),
            (REQUEST_TIMEOUT, "18446744073709551615m"),
            (REQUEST_TIMEOUT, "2d"),
            (RETRIES, "11"),
            (RETRIES, "many"),
            ("weft.dev/balancr", "peak-ewma"),
            (ROUTES, "[]"),
            (ROUTES, "match: {prefix: /}"),
            (ROUTES, "[{match: {prefix: /}, rout: {cluster: a}}]"),
            (ROUTES, "[{"),
        ] {
            let (policy, problems) = read(&[(key, value)]);
            assert_eq!(policy, ServicePolicy::default(), "{key}={value}");
            assert!(problems.len() == 1 && problems[0].to_string().contains(key), "{problems:?}");
        }
    }

    #[test]
    fn routes_are_read_and_their_meaning_is_left_to_the_proxies() {
        let text = "- match: {safe_regex: {regex: '('}}\n  route: {cluster: other.default:80}\n- match: {prefix: /}\n  \
                    route: {cluster: web.default:80}";
        let (policy, problems) = read(&[(ROUTES, text)]);
        assert_eq!(problems, []);
        assert_eq!(policy.routes.len(), 2);
        let (_, problems) = read(&[(ROUTES, "[{match: {prefix: /}, rout: {cluster: a}}]")]);
        assert!(problems[0].to_string().contains("routes[0]: unknown field \"rout\""), "{}", problems[0]);
    }
}
