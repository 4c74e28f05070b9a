//! Reading the bootstrap: everything that is fixed when the process starts.

use std::net::SocketAddr;

use weft_xds::{
    client::{Protocol, ServerAddress},
    pb::envoy::config::{
        bootstrap::v3::Bootstrap,
        cluster::v3::Cluster,
        core::v3::{
            ApiConfigSource, ConfigSource, Node, api_config_source::ApiType,
            config_source::ConfigSourceSpecifier, grpc_service::TargetSpecifier,
        },
        listener::v3::Listener,
    },
};

use super::{ConfigError, Path, access_log, endpoint, listener, state::Names, unsupported, value};
use crate::worker::Shared;

/// A bootstrap that was checked, with its static resources as they were written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) node: Node,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) ads: Option<(ServerAddress, Protocol)>,
    pub(crate) load_reports: Option<ServerAddress>,
    /// Whether listeners and clusters come from the server.
    pub(crate) listeners_over_ads: bool,
    pub(crate) clusters_over_ads: bool,
}

/// Checks everything but the static resources themselves.
pub(crate) fn read(message: Bootstrap) -> Result<Settings, ConfigError> {
    let path = Path::default();
    unsupported!(path, message; hds_config, flags_path, stats_sinks, overload_manager, fatal_actions,
        config_sources, default_config_source, certificate_provider_instances, inline_headers,
        default_regex_engine, xds_delegate_extension, xds_config_tracker_extension, listener_manager,
        typed_dns_resolver_config, header_prefix, default_socket_interface, bootstrap_extensions);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; tracing, use_tcp_for_dns_lookups, dns_resolution_config);
    }
    let statics = message.static_resources.unwrap_or_default();
    unsupported!(path.field("static_resources"), statics; secrets);
    let mut settings = Settings {
        node: message.node.unwrap_or_default(),
        clusters: statics.clusters,
        listeners: statics.listeners,
        ..Settings::default()
    };
    if let Some(admin) = &message.admin {
        let path = path.field("admin");
        unsupported!(path, admin; profile_path, socket_options, allow_paths);
        if !admin.access_log.is_empty() {
            let mut scratch = Names::new(Default::default());
            access_log::compile(&path, &admin.access_log, &mut scratch)?;
            tracing::warn!("the admin access log is not written");
        }
        settings.admin = match &admin.address {
            Some(address) => Some(value::socket_address(&path.field("address"), Some(address))?),
            None => None,
        };
    }
    if let Some(dynamic) = &message.dynamic_resources {
        let path = path.field("dynamic_resources");
        unsupported!(path, dynamic; lds_resources_locator, cds_resources_locator);
        settings.listeners_over_ads = over_ads(&path.field("lds_config"), dynamic.lds_config.as_ref())?;
        settings.clusters_over_ads = over_ads(&path.field("cds_config"), dynamic.cds_config.as_ref())?;
        if let Some(ads) = &dynamic.ads_config {
            let path = path.field("ads_config");
            let protocol = match ApiType::try_from(ads.api_type) {
                Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Protocol::Sotw,
                Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Protocol::Delta,
                _ => return Err(path.field("api_type").error("only GRPC and DELTA_GRPC are supported")),
            };
            settings.ads = Some((server(&path, ads, &settings.clusters)?, protocol));
        }
    }
    if (settings.listeners_over_ads || settings.clusters_over_ads) && settings.ads.is_none() {
        return Err(path.field("dynamic_resources.ads_config").missing());
    }
    if let Some(manager) = &message.cluster_manager {
        let path = path.field("cluster_manager");
        unsupported!(path, manager; local_cluster_name, outlier_detection, upstream_bind_config);
        if let Some(source) = &manager.load_stats_config {
            settings.load_reports =
                Some(server(&path.field("load_stats_config"), source, &settings.clusters)?);
        }
    }
    Ok(settings)
}

/// Compiles the static resources and throws the result away: what `--mode validate` does. Nothing is opened or bound.
pub(crate) fn validate(settings: &Settings, shared: &Shared) -> Result<(), ConfigError> {
    let mut names = Names::new(Default::default());
    let path = Path::root("static_resources");
    for (index, message) in settings.clusters.iter().enumerate() {
        super::cluster::compile(&path.item("clusters", index), message, shared, None)?;
    }
    for (index, message) in settings.listeners.iter().enumerate() {
        listener::compile(&path.item("listeners", index), message, shared, &mut names)?;
    }
    known_clusters(settings, &names)
}

/// As Envoy: a route in the file to a cluster that neither the file has nor a server could give is a mistake.
fn known_clusters(settings: &Settings, names: &Names) -> Result<(), ConfigError> {
    if settings.clusters_over_ads {
        return Ok(());
    }
    for name in names.cluster_names() {
        if !settings.clusters.iter().any(|cluster| cluster.name == *name) {
            return Err(Path::root("static_resources")
                .field("clusters")
                .error(format!("there is no cluster {name:?}")));
        }
    }
    Ok(())
}

fn over_ads(path: &Path, source: Option<&ConfigSource>) -> Result<bool, ConfigError> {
    match source.map(|source| &source.config_source_specifier) {
        None => Ok(false),
        Some(Some(ConfigSourceSpecifier::Ads(_))) => Ok(true),
        Some(_) => Err(path.error("only ads is supported")),
    }
}

/// Where the server of a gRPC configuration source listens.
fn server(path: &Path, source: &ApiConfigSource, clusters: &[Cluster]) -> Result<ServerAddress, ConfigError> {
    unsupported!(path, source; cluster_names, config_validators);
    let [service] = source.grpc_services.as_slice() else {
        return Err(path.field("grpc_services").error("exactly one is supported"));
    };
    let path = path.item("grpc_services", 0);
    unsupported!(path, service; initial_metadata, retry_policy);
    match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => {
            let path = path.field("envoy_grpc");
            let named = path.field("cluster_name");
            let cluster = clusters
                .iter()
                .find(|cluster| cluster.name == grpc.cluster_name)
                .ok_or_else(|| named.error(format!("there is no static cluster {:?}", grpc.cluster_name)))?;
            let assignment = cluster.load_assignment.as_ref();
            let hosts = match assignment {
                Some(assignment) => endpoint::named(&named.field("load_assignment"), assignment)?,
                None => Vec::new(),
            };
            let host = hosts.into_iter().next().ok_or_else(|| named.error("the cluster has no endpoint"))?;
            Ok(ServerAddress::Tcp { host: host.host, port: host.port })
        }
        Some(TargetSpecifier::GoogleGrpc(grpc)) => {
            let path = path.field("google_grpc");
            unsupported!(path, grpc; channel_credentials, channel_credentials_plugin, call_credentials,
                call_credentials_plugin, credentials_factory_name, config, channel_args);
            grpc.target_uri.parse().map_err(|error: weft_xds::transport::AddressError| {
                path.field("target_uri").error(error.to_string())
            })
        }
        None => Err(path.field("envoy_grpc").missing()),
    }
}
