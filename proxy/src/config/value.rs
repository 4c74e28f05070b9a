//! Small values that many messages share.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weft_xds::{
    any::{self, UnpackError},
    pb::{
        envoy::{
            config::core::v3::{
                Address, CidrRange, DataSource, HeaderValue, HeaderValueOption, RuntimeFeatureFlag,
                RuntimeFractionalPercent, TransportSocket, address, data_source,
                header_value_option::HeaderAppendAction, socket_address, transport_socket,
            },
            r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
        },
        google::protobuf::{Any, Duration as ProtoDuration, UInt32Value},
    },
};

use super::{ConfigError, Path, unsupported};
use crate::{
    access_log::format::Format,
    route::mutate::{Addition, Append, Mutation, Value},
    runtime::{Flag, Share},
};

/// Every request, as a share in millionths.
pub(crate) const ALL: u32 = 1_000_000;

/// A duration; negative ones are refused.
pub(crate) fn duration(path: &Path, value: &ProtoDuration) -> Result<Duration, ConfigError> {
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(value.seconds), u32::try_from(value.nanos)) else {
        return Err(path.error("must not be negative"));
    };
    if nanos >= 1_000_000_000 {
        return Err(path.error("is not a valid duration"));
    }
    Ok(Duration::new(seconds, nanos))
}

/// A duration that may be missing.
pub(crate) fn maybe_duration(
    path: &Path,
    value: Option<&ProtoDuration>,
) -> Result<Option<Duration>, ConfigError> {
    value.map(|value| duration(path, value)).transpose()
}

/// A time limit: missing is `default`, zero is none.
pub(crate) fn limit(
    path: &Path,
    value: Option<&ProtoDuration>,
    default: Option<Duration>,
) -> Result<Option<Duration>, ConfigError> {
    match maybe_duration(path, value)? {
        None => Ok(default),
        Some(Duration::ZERO) => Ok(None),
        Some(limit) => Ok(Some(limit)),
    }
}

/// A wrapped number or its default.
pub(crate) fn number(value: Option<&UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

/// An address with a numeric host.
pub(crate) fn socket_address(path: &Path, value: Option<&Address>) -> Result<SocketAddr, ConfigError> {
    let (path, host, port) = host_and_port(path, value)?;
    let ip: IpAddr =
        host.parse().map_err(|_| path.field("address").error(format!("{host:?} is not an IP address")))?;
    Ok((ip, port).into())
}

/// Host and port of an address; the host may be a name.
pub(crate) fn host_and_port(
    path: &Path,
    value: Option<&Address>,
) -> Result<(Path, String, u16), ConfigError> {
    let address = value.and_then(|value| value.address.as_ref()).ok_or_else(|| path.missing())?;
    let address::Address::SocketAddress(socket) = address else {
        return Err(path.error("only socket_address is supported"));
    };
    let path = path.field("socket_address");
    unsupported!(path, socket; protocol, resolver_name, network_namespace_filepath);
    let port = match &socket.port_specifier {
        Some(socket_address::PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| path.field("port_value").error("must be at most 65535"))?
        }
        Some(socket_address::PortSpecifier::NamedPort(_)) => {
            return Err(path.field("named_port").unsupported());
        }
        None => return Err(path.field("port_value").missing()),
    };
    Ok((path, socket.address.clone(), port))
}

/// The settings of a transport socket with their path, unless it is the plain one.
pub(crate) fn transport_socket<'m>(
    path: &Path,
    socket: Option<&'m TransportSocket>,
) -> Result<Option<(Path, &'m Any)>, ConfigError> {
    const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

    let Some(socket) = socket else { return Ok(None) };
    let path = path.field("typed_config");
    let Some(transport_socket::ConfigType::TypedConfig(config)) = &socket.config_type else {
        return Err(path.missing());
    };
    Ok(if any::type_name(&config.type_url) == RAW { None } else { Some((path, config)) })
}

/// What unpacking an `Any` gave, with the path of the `Any`.
pub(crate) fn unpacked<M>(path: &Path, result: Result<M, UnpackError>) -> Result<M, ConfigError> {
    result.map_err(|error| path.error(weft_kit::error::chain(&error)))
}

/// Text that is written in the configuration itself.
pub(crate) fn inline_data(path: &Path, value: Option<&DataSource>) -> Result<Vec<u8>, ConfigError> {
    let Some(source) = value else { return Ok(Vec::new()) };
    unsupported!(path, source; watched_directory);
    match &source.specifier {
        None => Ok(Vec::new()),
        Some(data_source::Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(data_source::Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(data_source::Specifier::Filename(name)) => std::fs::read(name)
            .map_err(|error| path.field("filename").error(format!("cannot read {name:?}: {error}"))),
        Some(data_source::Specifier::EnvironmentVariable(name)) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|error| path.field("environment_variable").error(format!("{name:?}: {error}"))),
    }
}

/// A range of addresses: one of them, and how many leading bits all have in common.
pub(crate) fn network(path: &Path, range: &CidrRange) -> Result<(IpAddr, u8), ConfigError> {
    let address: IpAddr = range
        .address_prefix
        .parse()
        .map_err(|_| path.field("address_prefix").error("is not an IP address"))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    match u8::try_from(number(range.prefix_len.as_ref(), 0)) {
        Ok(length) if length <= longest => Ok((address, length)),
        _ => Err(path.field("prefix_len").error(format!("must be at most {longest}"))),
    }
}

/// A share of requests, in millionths; missing is none.
pub(crate) fn share(path: &Path, value: Option<&FractionalPercent>) -> Result<u32, ConfigError> {
    let Some(value) = value else { return Ok(0) };
    let scale = match DenominatorType::try_from(value.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(path.field("denominator").error("is not a known value")),
    };
    Ok(value.numerator.saturating_mul(scale).min(ALL))
}

/// The same with a runtime key.
pub(crate) fn runtime_share(
    path: &Path,
    value: Option<&RuntimeFractionalPercent>,
    default: u32,
) -> Result<Share, ConfigError> {
    let Some(value) = value else { return Ok(Share::new("", default)) };
    let default = share(&path.field("default_value"), value.default_value.as_ref())?;
    Ok(Share::new(&value.runtime_key, default))
}

/// Whether something is on unless told otherwise.
pub(crate) fn flag(value: Option<&RuntimeFeatureFlag>) -> Flag {
    let default = value.and_then(|flag| flag.default_value).is_none_or(|default| default.value);
    Flag::new(value.map_or("", |flag| &flag.runtime_key), default)
}

/// The status of an answer.
pub(crate) fn status(path: &Path, value: u32) -> Result<u16, ConfigError> {
    let status = u16::try_from(value).ok().filter(|status| (200..600).contains(status));
    status.ok_or_else(|| path.error("must be from 200 to 599"))
}

/// Text that becomes the value of a field.
pub(crate) fn field_value(path: &Path, text: &[u8]) -> Result<Vec<u8>, ConfigError> {
    match ::http::HeaderValue::from_bytes(text) {
        Ok(_) => Ok(text.to_vec()),
        Err(_) => Err(path.error("is not a field value")),
    }
}

/// Changes to header fields of one level; `what` is `request` or `response`.
pub(crate) fn mutation(
    path: &Path,
    what: &str,
    add: &[HeaderValueOption],
    remove: &[String],
) -> Result<Mutation, ConfigError> {
    let name = format!("{what}_headers_to_add");
    let add = add.iter().enumerate().map(|(index, option)| addition(&path.item(&name, index), option));
    let name = format!("{what}_headers_to_remove");
    let remove = remove.iter().enumerate().map(|(index, field)| removable(&path.item(&name, index), field));
    Ok(Mutation::new(remove.collect::<Result<_, _>>()?, add.collect::<Result<_, _>>()?))
}

/// The name of a field that may be removed, in lower case.
pub(crate) fn removable(path: &Path, name: &str) -> Result<Vec<u8>, ConfigError> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(':') || lower == "host" {
        return Err(path.error("the host and pseudo fields cannot be removed"));
    }
    field_name(path, &lower)
}

/// One field to add.
pub(crate) fn addition(path: &Path, option: &HeaderValueOption) -> Result<Addition, ConfigError> {
    let header = option.header.as_ref().ok_or_else(|| path.field("header").missing())?;
    let path = path.field("header");
    let lower = header.key.to_ascii_lowercase();
    if lower.starts_with(':') || lower == "host" {
        return Err(path
            .field("key")
            .error("the host and pseudo fields cannot be set; use host_rewrite_literal"));
    }
    let name = field_name(&path.field("key"), &lower)?;
    let text = if header.raw_value.is_empty() {
        header.value.clone().into_bytes()
    } else {
        header.raw_value.clone()
    };
    let value = formatted(&path.field("value"), &text)?;
    let how = append(option).ok_or_else(|| path.field("append_action").error("is not a known value"))?;
    Ok(Addition { name, value, how, keep_empty: option.keep_empty_value })
}

/// What a field does beside one of its name; `None` if the message says something unknown.
pub(crate) fn append(option: &HeaderValueOption) -> Option<Append> {
    #[expect(deprecated, reason = "older control planes and services still send it")]
    let append = option.append;
    if let Some(append) = append {
        return Some(if append.value { Append::Always } else { Append::Overwrite });
    }
    Some(match HeaderAppendAction::try_from(option.append_action).ok()? {
        HeaderAppendAction::AppendIfExistsOrAdd => Append::Always,
        HeaderAppendAction::AddIfAbsent => Append::IfAbsent,
        HeaderAppendAction::OverwriteIfExistsOrAdd => Append::Overwrite,
        HeaderAppendAction::OverwriteIfExists => Append::OverwriteIfPresent,
    })
}

/// A field by itself, as services are sent it.
pub(crate) fn plain_field(path: &Path, header: &HeaderValue) -> Result<(Vec<u8>, Vec<u8>), ConfigError> {
    let name = removable(&path.field("key"), &header.key)?;
    let text = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    let path = path.field("value");
    match formatted(&path, text)? {
        Value::Literal(value) => Ok((name, value)),
        Value::Format(_) => Err(path.error("format operators (%…%) are not supported here")),
    }
}

/// Text in which operators (`%REQ(…)%`) may stand for what is only known later; `%%` is a `%`.
pub(crate) fn formatted(path: &Path, text: &[u8]) -> Result<Value, ConfigError> {
    if text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(path.error("contains a line break"));
    }
    let mut value = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let Some(after) = after.strip_prefix(b"%") else {
                let text = std::str::from_utf8(text).map_err(|_| path.error("is not text"))?;
                let format = Format::text(text).map_err(|reason| path.error(reason))?;
                return Ok(Value::Format(Box::new(format.omit_empty(true))));
            };
            rest = after;
        }
        value.push(*byte);
    }
    Ok(Value::Literal(value))
}

pub(super) fn field_name(path: &Path, name: &str) -> Result<Vec<u8>, ConfigError> {
    ::http::HeaderName::from_bytes(name.as_bytes())
        .map(|name| name.as_str().as_bytes().to_vec())
        .map_err(|_| path.error(format!("{name:?} is not a field name")))
}
