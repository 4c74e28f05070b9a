//! Compiling how connections to upstreams are wrapped.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::{
        config::core::v3::{ProxyProtocolConfig, TransportSocket, proxy_protocol_config},
        extensions::transport_sockets::{
            proxy_protocol::v3::ProxyProtocolUpstreamTransport, tls::v3::UpstreamTlsContext,
        },
    },
};

use super::{ConfigError, Path, secrets::Secrets, unsupported, value};
use crate::{proxy_protocol::Version, tls::ClientTls};

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const PROXY_PROTOCOL: &str =
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// What is around the bytes of a connection, from the outside in.
#[derive(Default)]
pub(super) struct UpstreamSocket {
    pub(super) proxy_protocol: Option<Version>,
    pub(super) tls: Option<Arc<ClientTls>>,
}

/// Compiles a transport socket: TLS, the PROXY protocol around it or around nothing, or the plain one.
pub(super) fn compile(
    path: &Path,
    socket: Option<&TransportSocket>,
    secrets: &mut Secrets,
) -> Result<UpstreamSocket, ConfigError> {
    let Some((path, config)) = value::transport_socket(path, socket)? else {
        return Ok(UpstreamSocket::default());
    };
    match any::type_name(&config.type_url) {
        TLS => {
            let message = value::unpacked(&path, any::unpack::<UpstreamTlsContext>(config))?;
            let tls = secrets.client(&path, &message)?;
            Ok(UpstreamSocket { proxy_protocol: None, tls: Some(tls) })
        }
        PROXY_PROTOCOL => {
            let message = value::unpacked(&path, any::unpack::<ProxyProtocolUpstreamTransport>(config))?;
            unsupported!(path, message; allow_unspecified_address, tlv_as_pool_key);
            let inner_path = path.field("transport_socket");
            let inner = message.transport_socket.as_ref().ok_or_else(|| inner_path.missing())?;
            let inner = compile(&inner_path, Some(inner), secrets)?;
            if inner.proxy_protocol.is_some() {
                return Err(inner_path.error("there can be only one PROXY protocol header"));
            }
            let version = version(&path.field("config"), &message.config.unwrap_or_default())?;
            Ok(UpstreamSocket { proxy_protocol: Some(version), ..inner })
        }
        _ => Err(path.field("@type").error(format!("{:?} is not supported here", config.type_url))),
    }
}

fn version(path: &Path, config: &ProxyProtocolConfig) -> Result<Version, ConfigError> {
    unsupported!(path, config; pass_through_tlvs, added_tlvs);
    match proxy_protocol_config::Version::try_from(config.version) {
        Ok(proxy_protocol_config::Version::V1) => Ok(Version::V1),
        Ok(proxy_protocol_config::Version::V2) => Ok(Version::V2),
        Err(_) => Err(path.field("version").error("is not a known value")),
    }
}
