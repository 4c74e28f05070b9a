//! Envoy's command operators.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::{Entry, filter::millis, metadata::Place, time::TimeFormat};
use crate::http::{
    exchange::Reason,
    head::{Head, Version},
};

/// A command operator.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operator {
    StartTime(TimeFormat),
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ResponseFlagsLong,
    BytesReceived,
    BytesSent,
    Duration,
    ResponseDuration,
    ResponseTxDuration,
    RouteName,
    UpstreamHost,
    UpstreamCluster,
    UpstreamAttempts,
    UpstreamFailure,
    PeerAddress,
    PeerIp,
    PeerPort,
    LocalAddress,
    LocalIp,
    LocalPort,
    ConnectionId,
    TlsVersion,
    TlsCipher,
    TlsPeerSubject,
    TlsPeerUris,
    TlsPeerFingerprint,
    Hostname(String),
    /// What can be asked for and is never there.
    Nothing,
    Request(Field),
    Response(Field),
    Metadata(Place),
}

/// A header field, another that stands in for it, and how much of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    name: String,
    or: Option<String>,
    length: Option<usize>,
}

/// What an operator stands for in a line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'v> {
    Bytes(&'v [u8]),
    Number(u64),
    Address(SocketAddr),
    Ip(IpAddr),
    Time(&'v TimeFormat, Timestamp),
    /// No text.
    Json(&'v Json),
    Object(&'v Map<String, Json>),
    /// Empty texts are none.
    Flags([&'static str; 3]),
    Missing,
}

/// Envoy's words for its flags.
const LONG_FLAGS: &[(&str, &str)] = &[
    ("UH", "NoHealthyUpstream"),
    ("UF", "UpstreamConnectionFailure"),
    ("UO", "UpstreamOverflow"),
    ("NR", "NoRouteFound"),
    ("NC", "NoClusterFound"),
    ("URX", "UpstreamRetryLimitExceeded"),
    ("UC", "UpstreamConnectionTermination"),
    ("UR", "UpstreamRemoteReset"),
    ("UT", "UpstreamRequestTimeout"),
    ("UPE", "UpstreamProtocolError"),
    ("DC", "DownstreamConnectionTermination"),
    ("DPE", "DownstreamProtocolError"),
    ("DT", "DurationTimeout"),
    ("SI", "StreamIdleTimeout"),
    ("LR", "LocalReset"),
    ("OM", "OverloadManagerTerminated"),
    ("DI", "DelayInjected"),
    ("FI", "FaultInjected"),
    ("RL", "RateLimited"),
    ("RLSE", "RateLimitServiceError"),
    ("UAEX", "UnauthorizedExternalService"),
    ("LH", "FailedLocalHealthCheck"),
    ("NFCF", "NoFilterConfigFound"),
];

fn long_flag(flag: &str) -> &'static str {
    LONG_FLAGS.iter().find(|(short, _)| *short == flag).map_or("", |(_, long)| long)
}

/// Whether there is a flag of this name.
pub(crate) fn is_flag(name: &str) -> bool {
    LONG_FLAGS.iter().any(|(flag, _)| *flag == name)
}

// === impl Operator ===

impl Operator {
    /// Compiles what stands between two `%`; the error names it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let unknown = || format!("operator %{text}% is not supported");
        let (name, argument) = match text.find('(') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        match (name, argument) {
            ("REQ", Some(argument)) => return Ok(Self::Request(Field::parse(argument)?)),
            ("RESP", Some(argument)) => return Ok(Self::Response(Field::parse(argument)?)),
            ("DYNAMIC_METADATA", Some(argument)) => return Ok(Self::Metadata(Place::parse(argument)?)),
            ("START_TIME", argument) => {
                let format = argument.map_or(Some(""), |argument| argument.strip_suffix(')'));
                return Ok(Self::StartTime(TimeFormat::new(format.ok_or_else(unknown)?)?));
            }
            (_, Some(_)) => return Err(unknown()),
            (_, None) => {}
        }
        Ok(match name {
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "RESPONSE_FLAGS_LONG" => Self::ResponseFlagsLong,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "DURATION" => Self::Duration,
            "RESPONSE_DURATION" => Self::ResponseDuration,
            "RESPONSE_TX_DURATION" => Self::ResponseTxDuration,
            "ROUTE_NAME" => Self::RouteName,
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Self::UpstreamHost,
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Self::UpstreamCluster,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::UpstreamAttempts,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::UpstreamFailure,
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::PeerAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                Self::PeerIp
            }
            "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Self::PeerPort,
            "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => Self::LocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Self::LocalIp,
            "DOWNSTREAM_LOCAL_PORT" => Self::LocalPort,
            "DOWNSTREAM_TLS_VERSION" => Self::TlsVersion,
            "DOWNSTREAM_TLS_CIPHER" => Self::TlsCipher,
            "DOWNSTREAM_PEER_SUBJECT" => Self::TlsPeerSubject,
            "DOWNSTREAM_PEER_URI_SAN" => Self::TlsPeerUris,
            "DOWNSTREAM_PEER_FINGERPRINT_256" => Self::TlsPeerFingerprint,
            "CONNECTION_ID" => Self::ConnectionId,
            // The identity of a request is what `x-request-id` carries.
            "STREAM_ID" => Self::Request(Field { name: "x-request-id".into(), or: None, length: None }),
            "HOSTNAME" => Self::Hostname(hostname()),
            // There are no virtual clusters, and no connection is ended with a note of its own.
            "VIRTUAL_CLUSTER_NAME" | "CONNECTION_TERMINATION_DETAILS" => Self::Nothing,
            _ => return Err(unknown()),
        })
    }

    pub(super) fn value<'e>(&'e self, entry: &Entry<'e>) -> Value<'e> {
        let record = entry.record;
        let found =
            |text: &'e str| if text.is_empty() { Value::Missing } else { Value::Bytes(text.as_bytes()) };
        let peer = entry.tls.and_then(|identity| identity.peer.as_ref());
        match self {
            Self::StartTime(format) => {
                let now = Timestamp::now();
                Value::Time(format, now.checked_sub(entry.duration).unwrap_or(now))
            }
            Self::Protocol => match entry.request.map(|head| head.version) {
                None => Value::Missing,
                Some(Version::Http10) => Value::Bytes(b"HTTP/1.0"),
                Some(Version::Http11) => Value::Bytes(b"HTTP/1.1"),
                Some(Version::Http2) => Value::Bytes(b"HTTP/2"),
            },
            Self::ResponseCode => Value::Number(u64::from(entry.status)),
            Self::ResponseCodeDetails if entry.request.is_none() => Value::Missing,
            Self::ResponseCodeDetails => found(record.details()),
            Self::ResponseFlags => Value::Flags(record.each_flag()),
            Self::ResponseFlagsLong => Value::Flags(record.each_flag().map(long_flag)),
            Self::BytesReceived => Value::Number(record.bytes_received),
            Self::BytesSent => Value::Number(record.bytes_sent),
            Self::Duration => Value::Number(millis(entry.duration)),
            Self::ResponseDuration => record.upstream_millis.map_or(Value::Missing, Value::Number),
            Self::ResponseTxDuration => record.upstream_millis.map_or(Value::Missing, |upstream| {
                Value::Number(millis(entry.duration).saturating_sub(upstream))
            }),
            Self::RouteName => record.route.as_ref().map_or(Value::Missing, |route| found(&route.name)),
            Self::UpstreamHost => {
                record.upstream.as_ref().map_or(Value::Missing, |host| found(&host.address_text))
            }
            Self::UpstreamCluster => record.cluster.as_ref().map_or(Value::Missing, |name| found(name)),
            Self::UpstreamAttempts => Value::Number(u64::from(record.attempts)),
            Self::UpstreamFailure => match record.reason {
                Reason::ConnectFailure => Value::Bytes(b"connection_failure"),
                Reason::ConnectTimeout => Value::Bytes(b"connection_timeout"),
                _ => Value::Missing,
            },
            Self::PeerAddress => Value::Address(entry.peer),
            Self::PeerIp => Value::Ip(entry.peer.ip()),
            Self::PeerPort => Value::Number(u64::from(entry.peer.port())),
            Self::LocalAddress => Value::Address(entry.local),
            Self::LocalIp => Value::Ip(entry.local.ip()),
            Self::LocalPort => Value::Number(u64::from(entry.local.port())),
            Self::ConnectionId => Value::Number(entry.connection),
            Self::TlsVersion => entry.tls.map_or(Value::Missing, |identity| found(identity.version)),
            Self::TlsCipher => entry.tls.map_or(Value::Missing, |identity| found(identity.cipher)),
            Self::TlsPeerSubject => peer.map_or(Value::Missing, |peer| found(&peer.subject)),
            Self::TlsPeerUris => peer.map_or(Value::Missing, |peer| found(peer.uris())),
            Self::TlsPeerFingerprint => peer.map_or(Value::Missing, |peer| found(peer.fingerprint())),
            Self::Hostname(name) => found(name),
            Self::Nothing => Value::Missing,
            Self::Request(field) => field.value(entry.request, entry),
            Self::Response(field) => field.value(entry.response, entry),
            Self::Metadata(place) => place.value(&record.metadata),
        }
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// Splits `X):Z`, which is what follows the opening bracket of an operator, in text and greatest length.
pub(super) fn bracketed(argument: &str) -> Result<(&str, Option<usize>), String> {
    let (inside, after) =
        argument.split_once(')').ok_or_else(|| format!("({argument} has no closing bracket"))?;
    let length = match after.strip_prefix(':') {
        None if after.is_empty() => None,
        Some(digits) => Some(digits.parse().map_err(|_| format!("{digits:?} is not a length"))?),
        None => return Err(format!("{after:?} after the bracket is not supported")),
    };
    Ok((inside, length))
}

// === impl Field ===

impl Field {
    /// Reads `X?Y):Z`.
    fn parse(argument: &str) -> Result<Self, String> {
        let (inside, length) = bracketed(argument)?;
        let (name, or) = match inside.split_once('?') {
            Some((name, or)) => (name, Some(or.to_ascii_lowercase())),
            None => (inside, None),
        };
        Ok(Self { name: name.to_ascii_lowercase(), or, length })
    }

    fn value<'e>(&self, head: Option<&'e Head>, entry: &Entry<'_>) -> Value<'e> {
        let Some(head) = head else { return Value::Missing };
        let find = |name: &str| {
            let found = match name {
                ":method" => head.method_text(),
                ":path" => head.target(),
                ":authority" | "host" => head.authority(),
                ":scheme" if entry.tls.is_some() => b"https",
                ":scheme" => b"http",
                name => return head.get(name.as_bytes()),
            };
            Some(found).filter(|text| !text.is_empty())
        };
        match find(&self.name).or_else(|| find(self.or.as_deref()?)) {
            None => Value::Missing,
            Some(value) => Value::Bytes(&value[..self.length.unwrap_or(value.len()).min(value.len())]),
        }
    }
}

// === impl Value ===

impl Value<'_> {
    /// As text; `false` if there is nothing to write.
    pub(super) fn write_text(self, out: &mut Vec<u8>) -> bool {
        match self {
            // A client must not be able to forge lines.
            Self::Bytes(bytes) => {
                out.extend(bytes.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
            }
            Self::Missing | Self::Flags(["", "", ""]) => return false,
            other => other.write_plain(out),
        }
        true
    }

    /// Without any escaping: only for what this proxy made itself.
    pub(super) fn write_plain(self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = match self {
            Self::Number(number) => write!(out, "{number}"),
            Self::Address(address) => write!(out, "{address}"),
            Self::Json(value) => write!(out, "{value}"),
            Self::Object(fields) => serde_json::to_writer(out, fields).map_err(std::io::Error::from),
            Self::Ip(ip) => write!(out, "{ip}"),
            Self::Time(format, time) => {
                format.write(time, out);
                Ok(())
            }
            Self::Flags(flags) => {
                let mut separator = "";
                flags
                    .into_iter()
                    .filter(|flag| !flag.is_empty())
                    .try_for_each(|flag| write!(out, "{}{flag}", std::mem::replace(&mut separator, ",")))
            }
            Self::Bytes(_) | Self::Missing => Ok(()),
        };
    }
}
