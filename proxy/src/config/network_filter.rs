//! Compiling the network filters of a filter chain.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::{
        envoy::{
            config::listener::v3::{Filter, filter},
            extensions::filters::network::{
                connection_limit::v3::ConnectionLimit as ProtoLimit,
                http_connection_manager::v3::HttpConnectionManager, tcp_proxy::v3::TcpProxy,
            },
        },
        google::protobuf::Any,
    },
};

use super::{ConfigError, Path, http, names::Names, tcp_proxy, value};
use crate::{
    filter::rbac::{self, NetworkRbac},
    listener::{
        Handler,
        limit::{ConnectionLimit, Gate},
    },
    worker::Shared,
};

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const CONNECTION_LIMIT: &str = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";

/// What a connection must pass before it is handled.
#[derive(Default)]
pub(super) struct Gates {
    pub(super) limits: Vec<Arc<ConnectionLimit>>,
    pub(super) rbac: Vec<NetworkRbac>,
}

/// Compiles the filters of the chain at `path`: limits and rules, and the one that handles what they let in.
pub(super) fn compile(
    path: &Path,
    filters: &[Filter],
    shared: &Shared,
    names: &mut Names,
) -> Result<(Gates, Handler), ConfigError> {
    let Some((last, before)) = filters.split_last() else {
        return Err(path.field("filters").missing());
    };
    let mut gates = Gates::default();
    for (index, filter) in before.iter().enumerate() {
        let (path, config) = typed_config(&path.item("filters", index), filter)?;
        match any::type_name(&config.type_url) {
            CONNECTION_LIMIT => {
                let message = value::unpacked(&path, any::unpack::<ProtoLimit>(config))?;
                gates.limits.push(Arc::new(connection_limit(&path, &message, shared)?));
            }
            rbac::MESSAGE => gates.rbac.push(rbac::compile(&path, config, &shared.registry.named)?),
            MANAGER | TCP_PROXY => {
                return Err(path.error("must be the last filter of the chain, and the only one of its kind"));
            }
            other => return Err(not_supported(&path, filter, other)),
        }
    }
    let (path, config) = typed_config(&path.item("filters", before.len()), last)?;
    let handler = match any::type_name(&config.type_url) {
        MANAGER => {
            let message = value::unpacked(&path, any::unpack::<HttpConnectionManager>(config))?;
            Handler::Http(Arc::new(http::compile(&path, &message, shared, names)?))
        }
        TCP_PROXY => {
            let message = value::unpacked(&path, any::unpack::<TcpProxy>(config))?;
            Handler::Tcp(Arc::new(tcp_proxy::compile(&path, &message, shared, names)?))
        }
        CONNECTION_LIMIT | rbac::MESSAGE => {
            return Err(path.error("must be followed by a filter that handles connections"));
        }
        other => return Err(not_supported(&path, last, other)),
    };
    Ok((gates, handler))
}

fn typed_config<'f>(path: &Path, filter: &'f Filter) -> Result<(Path, &'f Any), ConfigError> {
    let path = path.field("typed_config");
    match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(config)) => Ok((path, config)),
        Some(filter::ConfigType::ConfigDiscovery(_)) => Err(path.error("config_discovery is not supported")),
        None => Err(path.missing()),
    }
}

fn not_supported(path: &Path, filter: &Filter, type_name: &str) -> ConfigError {
    path.field("@type").error(format!("filter {:?} ({type_name}) is not supported", filter.name))
}

fn connection_limit(
    path: &Path,
    message: &ProtoLimit,
    shared: &Shared,
) -> Result<ConnectionLimit, ConfigError> {
    let limit = message.max_connections.as_ref().map_or(0, |value| value.value);
    if limit == 0 {
        return Err(path.field("max_connections").error("must be at least 1"));
    }
    Ok(ConnectionLimit {
        gate: Gate::new(limit),
        enabled: value::flag(message.runtime_enabled.as_ref()),
        delay: value::maybe_duration(&path.field("delay"), message.delay.as_ref())?
            .filter(|delay| !delay.is_zero()),
        stats: shared.registry.connection_limit(&message.stat_prefix),
    })
}
