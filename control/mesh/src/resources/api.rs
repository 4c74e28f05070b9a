//! Listeners for gRPC's own xDS resolver: no socket, only the way from a service's name to its routes.
//!
//! A program asks for the listener whose name is the target that it dials, so each name that a service has is a listener
//! of its own. Routes, clusters and endpoints are those of the proxies.

use weft_api::mesh::CLUSTER_DOMAIN;
use weft_xds::{
    any::pack,
    pb::envoy::{
        config::listener::v3::{ApiListener, Listener},
        extensions::filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
            },
        },
    },
};

use super::over_ads;
use crate::catalog::OutboundPort;

/// The listener `name`, whose routes are `routes`.
pub fn listener(name: &str, routes: &str) -> Listener {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: routes.to_owned(),
        })),
        // gRPC refuses a manager whose last filter is another one.
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
            ..HttpFilter::default()
        }],
        ..HttpConnectionManager::default()
    };
    Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(pack(&manager)) }),
        ..Listener::default()
    }
}

/// What a port of a service is called by a program in `namespace`: `SERVICE.NAMESPACE`, that with `.svc` and with
/// `.svc.cluster.local`, and the bare `SERVICE` within its own namespace; each with `:PORT`, and without where there is only
/// one.
pub fn names(namespace: &str, port: &OutboundPort) -> Vec<String> {
    let service = port.name.rsplit_once(':').map_or(port.name.as_str(), |(service, _)| service);
    let mut hosts =
        vec![service.to_owned(), format!("{service}.svc"), format!("{service}.svc.{CLUSTER_DOMAIN}")];
    let bare = service.strip_suffix(namespace).and_then(|rest| rest.strip_suffix('.'));
    // A name with a dot would be that of another namespace's service.
    hosts.extend(bare.filter(|bare| !bare.contains('.')).map(str::to_owned));
    hosts.iter().flat_map(|host| with_port(host, port)).collect()
}

fn with_port(host: &str, port: &OutboundPort) -> Vec<String> {
    let mut names = vec![format!("{host}:{}", port.port)];
    if port.only {
        names.push(host.to_owned());
    }
    names
}
