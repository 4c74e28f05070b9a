//! Load reports of endpoints (ORCA): `xds.data.orca.v3.OrcaLoadReport`, which Envoy's Rust bindings do not carry, and the
//! three forms in which answers bring it along.
//!
//! A field or trailer `endpoint-load-metrics` says `TEXT name=value, ...`, `JSON {...}` or `BIN base64`; the forms also
//! have fields of their own, `endpoint-load-metrics-json` and `endpoint-load-metrics-bin` (which is what gRPC sends).

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::GeneralPurpose};
use prost::Message;
use serde_json::Value;

/// What an endpoint says of its load.
#[derive(Clone, PartialEq, Message)]
pub struct OrcaLoadReport {
    /// From 0 to 1, or more where it can be exceeded.
    #[prost(double, tag = "1")]
    pub cpu_utilization: f64,
    /// From 0 to 1.
    #[prost(double, tag = "2")]
    pub mem_utilization: f64,
    /// Costs of the request, by name.
    #[prost(map = "string, double", tag = "4")]
    pub request_cost: HashMap<String, f64>,
    /// Utilisations of resources, by name.
    #[prost(map = "string, double", tag = "5")]
    pub utilization: HashMap<String, f64>,
    /// Requests per second.
    #[prost(double, tag = "6")]
    pub rps_fractional: f64,
    /// Errors per second.
    #[prost(double, tag = "7")]
    pub eps: f64,
    /// Anything else, by name.
    #[prost(map = "string, double", tag = "8")]
    pub named_metrics: HashMap<String, f64>,
    /// What the application itself thinks of its load.
    #[prost(double, tag = "9")]
    pub application_utilization: f64,
}

/// The field that the other names begin with.
pub const FIELD: &str = "endpoint-load-metrics";

/// As gRPC writes it, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// Whether a field of this name may be a report.
pub fn is_report(name: &[u8]) -> bool {
    name.len() >= FIELD.len() && name[..FIELD.len()].eq_ignore_ascii_case(FIELD.as_bytes())
}

/// The report in a field; `None` if it is none, or malformed.
pub fn parse(name: &[u8], value: &[u8]) -> Option<OrcaLoadReport> {
    let value = std::str::from_utf8(value).ok()?.trim();
    match name.get(FIELD.len()..)? {
        form if form.eq_ignore_ascii_case(b"-bin") => binary(value),
        form if form.eq_ignore_ascii_case(b"-json") => json(value),
        b"" => match value.split_once(' ') {
            Some(("BIN", rest)) => binary(rest),
            Some(("JSON", rest)) => json(rest),
            Some(("TEXT", rest)) => text(rest),
            _ => text(value),
        },
        _ => None,
    }
}

fn binary(value: &str) -> Option<OrcaLoadReport> {
    OrcaLoadReport::decode(BASE64.decode(value.trim()).ok()?.as_slice()).ok()
}

fn text(value: &str) -> Option<OrcaLoadReport> {
    let mut report = OrcaLoadReport::default();
    let mut seen = Vec::new();
    for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, number) = pair.split_once(['=', ':'])?;
        let (name, number) = (name.trim(), number.trim().parse::<f64>().ok()?);
        if !number.is_finite() || seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match name.split_once('.') {
            Some((map, key)) if !key.is_empty() => {
                report.map_mut(map)?.insert(key.to_owned(), number);
            }
            _ => *report.number_mut(name)? = number,
        }
    }
    Some(report)
}

fn json(value: &str) -> Option<OrcaLoadReport> {
    let Value::Object(fields) = serde_json::from_str(value.trim()).ok()? else { return None };
    let mut report = OrcaLoadReport::default();
    for (name, value) in fields {
        let name = snake_case(&name);
        match value {
            Value::Object(entries) => {
                let map = report.map_mut(&name)?;
                for (key, value) in entries {
                    map.insert(key, number(&value)?);
                }
            }
            // Envoy's parser knows the field that `rps_fractional` took the place of, and nothing reads it.
            _ if name == "rps" => {}
            value => *report.number_mut(&name)? = number(&value)?,
        }
    }
    Some(report)
}

/// Numbers may be written as texts, as everywhere in protobuf's JSON.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    Some(number).filter(|number| number.is_finite())
}

fn snake_case(name: &str) -> String {
    let mut result = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() {
            result.push('_');
        }
        result.push(character.to_ascii_lowercase());
    }
    result
}

// === impl OrcaLoadReport ===

impl OrcaLoadReport {
    /// A metric by the name that it has in configurations: a field, or a map and a key (`named_metrics.queue`), where `*`
    /// is the largest of all keys.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let Some((map, key)) = name.split_once('.') else {
            return match name {
                "cpu_utilization" => Some(self.cpu_utilization),
                "mem_utilization" => Some(self.mem_utilization),
                "application_utilization" => Some(self.application_utilization),
                "rps_fractional" => Some(self.rps_fractional),
                "eps" => Some(self.eps),
                _ => None,
            };
        };
        let map = match map {
            "named_metrics" => &self.named_metrics,
            "utilization" => &self.utilization,
            "request_cost" => &self.request_cost,
            _ => return None,
        };
        if key == "*" { map.values().copied().reduce(f64::max) } else { map.get(key).copied() }
    }

    fn number_mut(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "cpu_utilization" => &mut self.cpu_utilization,
            "mem_utilization" => &mut self.mem_utilization,
            "application_utilization" => &mut self.application_utilization,
            "rps_fractional" => &mut self.rps_fractional,
            "eps" => &mut self.eps,
            _ => return None,
        })
    }

    fn map_mut(&mut self, name: &str) -> Option<&mut HashMap<String, f64>> {
        Some(match name {
            "named_metrics" => &mut self.named_metrics,
            "utilization" => &mut self.utilization,
            "request_cost" => &mut self.request_cost,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> OrcaLoadReport {
        OrcaLoadReport {
            cpu_utilization: 0.7,
            rps_fractional: 1000.0,
            eps: 2.0,
            application_utilization: 0.8,
            named_metrics: [("queue".to_owned(), 0.5)].into(),
            ..OrcaLoadReport::default()
        }
    }

    #[test]
    fn all_forms_of_a_report_say_the_same() {
        let bytes = BASE64.encode(expected().encode_to_vec());
        let text = "cpu_utilization=0.7, rps_fractional=1000,eps=2,application_utilization=0.8,named_metrics.queue=0.5";
        let json = r#"{"cpuUtilization": 0.7, "rps_fractional": "1000", "eps": 2, "applicationUtilization": 0.8, "namedMetrics": {"queue": 0.5}}"#;
        for (name, value) in [
            ("endpoint-load-metrics", format!("TEXT {text}")),
            ("endpoint-load-metrics", text.replace('=', ":")),
            ("endpoint-load-metrics", format!("JSON {json}")),
            ("Endpoint-Load-Metrics-Json", json.to_owned()),
            ("endpoint-load-metrics", format!("BIN {bytes}")),
            ("endpoint-load-metrics-bin", bytes.trim_end_matches('=').to_owned()),
        ] {
            assert!(is_report(name.as_bytes()), "{name}");
            assert_eq!(parse(name.as_bytes(), value.as_bytes()), Some(expected()), "{name}: {value}");
        }
        assert_eq!(expected().metric("named_metrics.*"), Some(0.5));
    }

    #[test]
    fn what_is_malformed_is_no_report() {
        for value in [
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=x",
            "TEXT eps=1,eps=1",
            "TEXT eps=inf",
            "JSON [",
            "BIN ?",
            "TEXT what=1",
        ] {
            assert_eq!(parse(FIELD.as_bytes(), value.as_bytes()), None, "{value}");
        }
        assert_eq!(parse(b"endpoint-load-metrics-else", b""), None);
        assert!(!is_report(b"endpoint-load"));
    }
}
