//! Envoy's format strings, compiled.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::Entry;
use crate::http::head::{Head, Version};

/// Envoy's default line.
pub(crate) const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// A compiled format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Format {
    Text(Vec<Part>),
    /// Written as one object per line, in the order given.
    Json(Vec<(String, Node)>),
}

/// A value in a JSON format.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// A single operator keeps its type: a number stays a number.
    Operator(Operator),
    Text(Vec<Part>),
    Object(Vec<(String, Node)>),
    Constant(Value),
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    Literal(String),
    Operator(Operator),
}

/// A command operator.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operator {
    StartTime,
    Protocol,
    ResponseCode,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    Duration,
    RouteName,
    UpstreamHost,
    UpstreamCluster,
    UpstreamAttempts,
    ResponseDuration,
    PeerAddress,
    PeerAddressWithoutPort,
    LocalAddress,
    LocalAddressWithoutPort,
    Request { name: String, or: Option<String>, length: Option<usize> },
    Response { name: String, or: Option<String>, length: Option<usize> },
}

/// A value on its way into a line.
enum Field<'f> {
    Text(Cow<'f, str>),
    Number(u64),
    Missing,
}

// === impl Format ===

impl Format {
    /// Compiles a text format; the error names the operator that is not known.
    pub(crate) fn text(format: &str) -> Result<Self, String> {
        Ok(Self::Text(parse(format)?))
    }

    /// Compiles a JSON format.
    pub(crate) fn json(format: &Map<String, Value>) -> Result<Self, String> {
        Ok(Self::Json(object(format)?))
    }

    /// One line.
    pub(crate) fn line(&self, entry: &Entry<'_>) -> Vec<u8> {
        match self {
            Self::Text(parts) => text(parts, entry).into_bytes(),
            Self::Json(fields) => {
                let mut line = render(fields, entry).to_string().into_bytes();
                line.push(b'\n');
                line
            }
        }
    }
}

fn object(format: &Map<String, Value>) -> Result<Vec<(String, Node)>, String> {
    format
        .iter()
        .map(|(key, value)| {
            let node = match value {
                Value::String(text) => {
                    let mut parts = parse(text)?;
                    match (parts.pop(), parts.is_empty()) {
                        (Some(Part::Operator(operator)), true) => Node::Operator(operator),
                        (last, _) => {
                            parts.extend(last);
                            Node::Text(parts)
                        }
                    }
                }
                Value::Object(inner) => Node::Object(object(inner)?),
                constant => Node::Constant(constant.clone()),
            };
            Ok((key.clone(), node))
        })
        .collect()
}

fn parse(format: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        if start > 0 {
            parts.push(Part::Literal(rest[..start].to_owned()));
        }
        let after = &rest[start + 1..];
        if let Some(escaped) = after.strip_prefix('%') {
            parts.push(Part::Literal("%".to_owned()));
            rest = escaped;
            continue;
        }
        let end = after.find('%').ok_or_else(|| format!("operator {after:?} has no end"))?;
        parts.push(Part::Operator(operator(&after[..end])?));
        rest = &after[end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

fn operator(text: &str) -> Result<Operator, String> {
    if let Some(argument) = text.strip_prefix("REQ(") {
        let (name, or, length) = header(argument)?;
        return Ok(Operator::Request { name, or, length });
    }
    if let Some(argument) = text.strip_prefix("RESP(") {
        let (name, or, length) = header(argument)?;
        return Ok(Operator::Response { name, or, length });
    }
    Ok(match text {
        "START_TIME" => Operator::StartTime,
        "PROTOCOL" => Operator::Protocol,
        "RESPONSE_CODE" => Operator::ResponseCode,
        "RESPONSE_FLAGS" => Operator::ResponseFlags,
        "BYTES_RECEIVED" => Operator::BytesReceived,
        "BYTES_SENT" => Operator::BytesSent,
        "DURATION" => Operator::Duration,
        "RESPONSE_DURATION" => Operator::ResponseDuration,
        "ROUTE_NAME" => Operator::RouteName,
        "UPSTREAM_HOST" => Operator::UpstreamHost,
        "UPSTREAM_CLUSTER" => Operator::UpstreamCluster,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Operator::UpstreamAttempts,
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Operator::PeerAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Operator::PeerAddressWithoutPort
        }
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::LocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::LocalAddressWithoutPort,
        other => return Err(format!("operator %{other}% is not supported")),
    })
}

fn header(argument: &str) -> Result<(String, Option<String>, Option<usize>), String> {
    let (inside, after) =
        argument.split_once(')').ok_or_else(|| format!("({argument} has no closing bracket"))?;
    let length = match after.strip_prefix(':') {
        None if after.is_empty() => None,
        Some(digits) => Some(digits.parse().map_err(|_| format!("{digits:?} is not a length"))?),
        None => return Err(format!("{after:?} after the bracket is not supported")),
    };
    let (name, or) = match inside.split_once('?') {
        Some((name, or)) => (name, Some(or.to_ascii_lowercase())),
        None => (inside, None),
    };
    Ok((name.to_ascii_lowercase(), or, length))
}

fn text(parts: &[Part], entry: &Entry<'_>) -> String {
    let mut line = String::with_capacity(256);
    for part in parts {
        match part {
            Part::Literal(literal) => line.push_str(literal),
            Part::Operator(operator) => match operator.value(entry) {
                // A client must not be able to forge lines.
                Field::Text(text) => line.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c })),
                Field::Number(number) => line.push_str(&number.to_string()),
                Field::Missing => line.push('-'),
            },
        }
    }
    line
}

fn render(fields: &[(String, Node)], entry: &Entry<'_>) -> Value {
    Value::Object(
        fields
            .iter()
            .map(|(key, node)| {
                let value = match node {
                    Node::Operator(operator) => match operator.value(entry) {
                        Field::Text(text) => Value::String(text.into_owned()),
                        Field::Number(number) => number.into(),
                        Field::Missing => Value::Null,
                    },
                    Node::Text(parts) => Value::String(text(parts, entry)),
                    Node::Object(inner) => render(inner, entry),
                    Node::Constant(value) => value.clone(),
                };
                (key.clone(), value)
            })
            .collect(),
    )
}

// === impl Operator ===

impl Operator {
    fn value<'e>(&self, entry: &Entry<'e>) -> Field<'e> {
        let record = entry.record;
        let text = |text: String| Field::Text(Cow::Owned(text));
        match self {
            Self::StartTime => {
                let start = jiff::Timestamp::now()
                    .checked_sub(entry.duration)
                    .unwrap_or_else(|_| jiff::Timestamp::now());
                text(start.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
            }
            Self::Protocol => match entry.request.map(|head| head.version) {
                None => Field::Missing,
                Some(Version::Http10) => Field::Text("HTTP/1.0".into()),
                Some(Version::Http11) => Field::Text("HTTP/1.1".into()),
                Some(Version::Http2) => Field::Text("HTTP/2".into()),
            },
            Self::ResponseCode => Field::Number(u64::from(record.status)),
            Self::ResponseFlags if record.flags.is_empty() => Field::Missing,
            Self::ResponseFlags => Field::Text(record.flags.into()),
            Self::BytesReceived => Field::Number(record.bytes_received),
            Self::BytesSent => Field::Number(record.bytes_sent),
            Self::Duration => Field::Number(u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX)),
            Self::ResponseDuration => record.upstream_millis.map_or(Field::Missing, Field::Number),
            Self::RouteName => match &record.route {
                Some(route) if !route.name.is_empty() => text(route.name.to_string()),
                _ => Field::Missing,
            },
            Self::UpstreamHost => match &record.upstream {
                Some(endpoint) => text(endpoint.address_text.to_string()),
                None => Field::Missing,
            },
            Self::UpstreamCluster => match &record.cluster {
                Some(cluster) => text(cluster.to_string()),
                None => Field::Missing,
            },
            Self::UpstreamAttempts => Field::Number(u64::from(record.attempts)),
            Self::PeerAddress => text(entry.peer.to_string()),
            Self::PeerAddressWithoutPort => text(entry.peer.ip().to_string()),
            Self::LocalAddress => text(entry.local.to_string()),
            Self::LocalAddressWithoutPort => text(entry.local.ip().to_string()),
            Self::Request { name, or, length } => field(entry.request, name, or.as_deref(), *length),
            Self::Response { name, or, length } => field(entry.response, name, or.as_deref(), *length),
        }
    }
}

fn field<'e>(head: Option<&'e Head>, name: &str, or: Option<&str>, length: Option<usize>) -> Field<'e> {
    let Some(head) = head else { return Field::Missing };
    let find = |name: &str| match name {
        ":method" => Some(head.method_text()).filter(|text| !text.is_empty()),
        ":path" => Some(head.target()).filter(|text| !text.is_empty()),
        ":authority" | "host" => Some(head.authority()).filter(|text| !text.is_empty()),
        ":scheme" => Some(&b"http"[..]),
        name => {
            head.fields().find(|(_, n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, _, value)| value)
        }
    };
    match find(name).or_else(|| or.and_then(find)) {
        None => Field::Missing,
        Some(value) => {
            let value = &value[..length.unwrap_or(value.len()).min(value.len())];
            Field::Text(String::from_utf8_lossy(value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{exchange::Record, h1::parse};

    fn line(format: &Format) -> String {
        let mut head = Head::default();
        parse::request(b"GET /a?b HTTP/1.1\r\nHost: web\r\nUser-Agent: te\x01\"st\r\n\r\n", &mut head, 100)
            .unwrap_or_else(|_| {
                parse::request(
                    b"GET /a?b HTTP/1.1\r\nHost: web\r\nUser-Agent: te\tst\r\n\r\n",
                    &mut head,
                    100,
                )
                .expect("valid")
            });
        let record = Record { status: 200, bytes_sent: 5, ..Record::default() };
        let entry = Entry {
            request: Some(&head),
            response: None,
            record: &record,
            duration: std::time::Duration::from_millis(12),
            peer: ([127, 0, 0, 1], 5).into(),
            local: ([127, 0, 0, 1], 6).into(),
        };
        String::from_utf8(format.line(&entry)).expect("text")
    }

    #[test]
    fn text_has_the_values_and_no_control_characters() {
        let format = Format::text(
            "%REQ(:METHOD)% %REQ(X-NO?:PATH):2% %RESPONSE_CODE% %RESPONSE_FLAGS% %% %REQ(user-agent)%\n",
        );
        assert_eq!(line(&format.expect("valid")), "GET /a 200 - % te st\n");
        assert!(Format::text(DEFAULT).is_ok());
    }

    #[test]
    fn json_keeps_numbers_numbers() {
        let format: Value = serde_json::json!({"code": "%RESPONSE_CODE%", "what": "%REQ(:METHOD)% it", "in": {"ms": "%DURATION%"}, "no": "%REQ(x)%"});
        let format = Format::json(format.as_object().expect("object")).expect("valid");
        let value: Value = serde_json::from_str(&line(&format)).expect("json");
        assert_eq!(value, serde_json::json!({"code": 200, "what": "GET it", "in": {"ms": 12}, "no": null}));
    }

    #[test]
    fn an_unknown_operator_is_named() {
        assert_eq!(Format::text("%NO_SUCH%"), Err("operator %NO_SUCH% is not supported".to_owned()));
    }
}
