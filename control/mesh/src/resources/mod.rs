//! Pure builders of Envoy v3 resources: no state, no I/O.
//!
//! What they build is standard: Envoy itself accepts and serves it.

pub mod api;
pub mod cluster;
pub mod endpoints;
pub mod listener;
pub mod route;

use std::{net::IpAddr, time::Duration};

use weft_xds::pb::{
    envoy::config::core::v3::{
        Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
        config_source::ConfigSourceSpecifier, socket_address,
    },
    google::protobuf,
};

/// The name of everything that belongs to one port of a service: `web.default:80`.
pub fn outbound_name(service: &weft_discovery::model::ServiceId, port: u16) -> String {
    format!("{service}:{port}")
}

/// The name of everything that belongs to one inbound port: `inbound:8080`.
pub fn inbound_name(port: u16) -> String {
    format!("inbound:{port}")
}

/// The cluster of captured inbound traffic, to wherever it was going.
pub const INBOUND: &str = "inbound";
/// The listener of captured outbound traffic.
pub const OUTBOUND: &str = "outbound";
/// The cluster of captured outbound traffic to no service, to wherever it was going.
pub const PASSTHROUGH: &str = "passthrough";

fn socket_address(ip: IpAddr, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
            ..SocketAddress::default()
        })),
    }
}

/// "From the stream that this came over."
fn over_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

fn bool_value(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

fn u32_value(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}
