//! Small values that many messages share.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weft_xds::{
    any::UnpackError,
    pb::{
        envoy::config::core::v3::{
            Address, DataSource, HeaderValueOption, address, data_source, socket_address,
        },
        google::protobuf::{Duration as ProtoDuration, UInt32Value},
    },
};

use super::{ConfigError, Path, unsupported};
use crate::route::mutate::{Addition, Append, Mutation};

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

/// Changes to header fields of one level; `what` is `request` or `response`.
pub(crate) fn mutation(
    path: &Path,
    what: &str,
    add: &[HeaderValueOption],
    remove: &[String],
) -> Result<Mutation, ConfigError> {
    let name = format!("{what}_headers_to_add");
    let mut mutation = Mutation::default();
    for (index, option) in add.iter().enumerate() {
        mutation.add.push(addition(&path.item(&name, index), option)?);
    }
    for (index, field) in remove.iter().enumerate() {
        let path = path.item(&format!("{what}_headers_to_remove"), index);
        let lower = field.to_ascii_lowercase();
        if lower.starts_with(':') || lower == "host" {
            return Err(path.error("the host and pseudo fields cannot be removed"));
        }
        mutation.remove.push(field_name(&path, &lower)?);
    }
    Ok(mutation)
}

fn addition(path: &Path, option: &HeaderValueOption) -> Result<Addition, ConfigError> {
    use weft_xds::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
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
    if text.is_empty() && !option.keep_empty_value {
        return Err(path.field("value").error("is empty, and keep_empty_value is not set"));
    }
    let value = literal(&path.field("value"), &text)?;
    #[expect(deprecated, reason = "older control planes still send it")]
    let append = option.append;
    let how = match append {
        Some(append) if append.value => Append::Always,
        Some(_) => Append::Overwrite,
        None => match HeaderAppendAction::try_from(option.append_action) {
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Append::Always,
            Ok(HeaderAppendAction::AddIfAbsent) => Append::IfAbsent,
            Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Append::Overwrite,
            Ok(HeaderAppendAction::OverwriteIfExists) => Append::OverwriteIfPresent,
            Err(_) => return Err(path.field("append_action").error("is not a known value")),
        },
    };
    Ok(Addition { name, value, how })
}

/// A field value with `%%` resolved; operators are refused rather than sent as they are.
fn literal(path: &Path, text: &[u8]) -> Result<Vec<u8>, ConfigError> {
    if text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err(path.error("contains a line break"));
    }
    let mut value = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            rest = after
                .strip_prefix(b"%")
                .ok_or_else(|| path.error("format operators (%…%) are not supported here"))?;
        }
        value.push(*byte);
    }
    Ok(value)
}

fn field_name(path: &Path, name: &str) -> Result<Vec<u8>, ConfigError> {
    ::http::HeaderName::from_bytes(name.as_bytes())
        .map(|name| name.as_str().as_bytes().to_vec())
        .map_err(|_| path.error(format!("{name:?} is not a field name")))
}
