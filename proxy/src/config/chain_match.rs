//! Compiling the conditions of filter chains.

use std::net::IpAddr;

use weft_xds::pb::envoy::config::{
    core::v3::CidrRange,
    listener::v3::{FilterChainMatch, filter_chain_match::ConnectionSourceType},
};

use super::{ConfigError, Path, unsupported, value};
use crate::listener::matching::{ChainMatch, SourceType, Transport};

pub(super) fn compile(path: &Path, message: &FilterChainMatch) -> Result<ChainMatch, ConfigError> {
    unsupported!(path, message; address_suffix, suffix_len);
    let transport = match message.transport_protocol.as_str() {
        "" => None,
        "raw_buffer" => Some(Transport::Raw),
        "tls" => Some(Transport::Tls),
        other => return Err(path.field("transport_protocol").error(format!("{other:?} is not supported"))),
    };
    let source_type = match ConnectionSourceType::try_from(message.source_type) {
        Ok(ConnectionSourceType::Any) => SourceType::Any,
        Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
        Ok(ConnectionSourceType::External) => SourceType::External,
        Err(_) => return Err(path.field("source_type").error("is not a known value")),
    };
    let server_names = message
        .server_names
        .iter()
        .enumerate()
        .map(|(index, name)| server_name(&path.item("server_names", index), name))
        .collect::<Result<_, _>>()?;
    let source_ports = message
        .source_ports
        .iter()
        .enumerate()
        .map(|(index, value)| port(&path.item("source_ports", index), *value))
        .collect::<Result<_, _>>()?;
    Ok(ChainMatch {
        destination_port: message
            .destination_port
            .as_ref()
            .map(|value| port(&path.field("destination_port"), value.value))
            .transpose()?,
        prefixes: networks(path, "prefix_ranges", &message.prefix_ranges)?,
        server_names,
        transport,
        application_protocols: message.application_protocols.clone(),
        direct_source_prefixes: networks(
            path,
            "direct_source_prefix_ranges",
            &message.direct_source_prefix_ranges,
        )?,
        source_type,
        source_prefixes: networks(path, "source_prefix_ranges", &message.source_prefix_ranges)?,
        source_ports,
    })
}

fn server_name(path: &Path, name: &str) -> Result<String, ConfigError> {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || rest.contains('*') {
        return Err(path.error("must be a name, or \"*.\" and a name"));
    }
    Ok(name.to_ascii_lowercase())
}

fn port(path: &Path, value: u32) -> Result<u16, ConfigError> {
    u16::try_from(value).map_err(|_| path.error("must be at most 65535"))
}

fn networks(path: &Path, name: &str, ranges: &[CidrRange]) -> Result<Vec<(IpAddr, u8)>, ConfigError> {
    ranges.iter().enumerate().map(|(index, range)| value::network(&path.item(name, index), range)).collect()
}
