//! Reading the bootstrap: everything that is fixed when the process starts.

use std::{net::SocketAddr, sync::Arc};

use weft_xds::{
    ResourceType,
    client::Protocol,
    pb::envoy::{
        config::{
            bootstrap::v3::Bootstrap,
            cluster::v3::Cluster,
            core::v3::{ConfigSource, Node, api_config_source::ApiType, node::UserAgentVersionType},
            listener::v3::Listener,
            overload::v3::OverloadManager,
        },
        extensions::transport_sockets::tls::v3::Secret,
    },
};

use super::{
    ConfigError, Path, access_log, listener,
    names::Names,
    overload::{self, Protection},
    runtime,
    servers::{ServerRef, Servers},
    source::{Patience, Source},
    unsupported, value,
};
use crate::{
    cluster::{endpoint::Zone, local::LocalCluster},
    worker::Shared,
};

/// A bootstrap that was checked, with its static resources as they were written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) node: Node,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) ads: Option<(ServerRef, Protocol)>,
    pub(crate) load_reports: Option<ServerRef>,
    /// As it was written; `None` stands for our own protection.
    pub(crate) overload: Option<OverloadManager>,
    /// Where listeners and clusters come from beside the bootstrap.
    pub(crate) listeners_from: Option<Source>,
    pub(crate) clusters_from: Option<Source>,
    /// How long those are waited for before traffic is welcome without.
    pub(crate) listeners_patience: Patience,
    pub(crate) clusters_patience: Patience,
    pub(crate) runtime: runtime::Runtime,
    /// The cluster of proxies like this one.
    pub(crate) local_cluster: String,
    /// Where configuration may come from.
    pub(crate) servers: Arc<Servers>,
}

const USER_AGENT: &str = "weft-proxy";
/// What servers are told that we can, by the names of Envoy's "client features". What is not here is not so: we do
/// support overprovisioning, for one.
const FEATURES: [&str; 3] = [
    "envoy.lrs.supports_send_all_clusters",
    "xds.config.supports-resource-ttl",
    "xds.config.resource-in-sotw",
];

/// Checks everything but the static resources themselves.
pub(crate) fn read(message: Bootstrap) -> Result<Settings, ConfigError> {
    let path = Path::default();
    unsupported!(path, message; hds_config, flags_path, stats_sinks, fatal_actions,
        certificate_provider_instances, inline_headers,
        default_regex_engine, xds_delegate_extension, xds_config_tracker_extension, listener_manager,
        typed_dns_resolver_config, header_prefix, default_socket_interface, bootstrap_extensions,
        node_context_params, stats_config, stats_server_version_override,
        perf_tracing_file_path, application_log_config, enable_worker_cpu_affinity);
    #[expect(deprecated, reason = "checked only to be refused")]
    {
        unsupported!(path, message; tracing, use_tcp_for_dns_lookups, dns_resolution_config);
    }
    let statics = message.static_resources.unwrap_or_default();
    let mut settings = Settings {
        node: introduced(message.node.unwrap_or_default()),
        clusters: statics.clusters,
        listeners: statics.listeners,
        secrets: statics.secrets,
        overload: message.overload_manager,
        ..Settings::default()
    };
    let mut servers = Servers::new(&settings.clusters)?;
    servers.set_authorities(&path, &message.config_sources, message.default_config_source.as_ref())?;
    settings.servers = Arc::new(servers);
    if let Some(admin) = &message.admin {
        let path = path.field("admin");
        unsupported!(path, admin; profile_path, socket_options, allow_paths);
        #[expect(deprecated, reason = "checked only to be refused")]
        {
            unsupported!(path, admin; access_log_path);
        }
        if !admin.access_log.is_empty() {
            let mut scratch = Names::new(Default::default(), Default::default());
            access_log::compile(&path, &admin.access_log, &mut scratch)?;
            tracing::warn!("the admin access log is not written");
        }
        settings.admin = match &admin.address {
            Some(address) => Some(value::socket_address(&path.field("address"), Some(address))?),
            None => None,
        };
    }
    if let Some(runtime) = &message.layered_runtime {
        settings.runtime = runtime::compile(&path.field("layered_runtime"), runtime, &settings.servers)?;
    }
    if let Some(dynamic) = &message.dynamic_resources {
        let path = path.field("dynamic_resources");
        unsupported!(path, dynamic; lds_resources_locator, cds_resources_locator);
        let source = |field: &str, message: &Option<ConfigSource>, type_| {
            let read = |message| Source::read(&path.field(field), Some(message), type_, &settings.servers);
            message.as_ref().map(read).transpose()
        };
        let listeners_from = source("lds_config", &dynamic.lds_config, ResourceType::Listener)?;
        let clusters_from = source("cds_config", &dynamic.cds_config, ResourceType::Cluster)?;
        (settings.listeners_from, settings.clusters_from) = (listeners_from, clusters_from);
        let patience = |field: &str, message: &Option<ConfigSource>| {
            Patience::read(&path.field(field), message.as_ref())
        };
        settings.listeners_patience = patience("lds_config", &dynamic.lds_config)?;
        settings.clusters_patience = patience("cds_config", &dynamic.cds_config)?;
        if let Some(ads) = &dynamic.ads_config {
            let path = path.field("ads_config");
            let protocol = match ApiType::try_from(ads.api_type) {
                Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Protocol::Sotw,
                Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Protocol::Delta,
                _ => return Err(path.field("api_type").error("only GRPC and DELTA_GRPC are supported")),
            };
            settings.ads = Some((settings.servers.grpc(&path, ads)?, protocol));
        }
    }
    let runtime_over_ads = settings.runtime.resources.iter().any(|(_, source)| *source == Source::Ads);
    let over_ads = |from: &Option<Source>| *from == Some(Source::Ads);
    if (over_ads(&settings.listeners_from) || over_ads(&settings.clusters_from) || runtime_over_ads)
        && settings.ads.is_none()
    {
        return Err(path.field("dynamic_resources.ads_config").missing());
    }
    if let Some(manager) = &message.cluster_manager {
        let path = path.field("cluster_manager");
        unsupported!(path, manager; outlier_detection, upstream_bind_config);
        settings.local_cluster.clone_from(&manager.local_cluster_name);
        if let Some(source) = &manager.load_stats_config {
            settings.load_reports = Some(settings.servers.grpc(&path.field("load_stats_config"), source)?);
        }
    }
    Ok(settings)
}

/// The node as servers are told it: with what program asks, as Envoy does, whatever the file says, and what that can.
fn introduced(node: Node) -> Node {
    let version = UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").to_owned());
    let mut node =
        Node { user_agent_name: USER_AGENT.to_owned(), user_agent_version_type: Some(version), ..node };
    for feature in FEATURES {
        if !node.client_features.iter().any(|known| known == feature) {
            node.client_features.push(feature.to_owned());
        }
    }
    node
}

/// What the bootstrap says of proxies like this one.
pub(crate) fn local_cluster(settings: &Settings) -> Option<Arc<LocalCluster>> {
    let zone = settings.node.locality.as_ref().map_or_else(Zone::default, |locality| Zone {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.sub_zone.clone(),
    });
    let name = Some(&settings.local_cluster).filter(|name| !name.is_empty())?;
    Some(Arc::new(LocalCluster::new(name.clone(), zone)))
}

/// Compiles the static resources and throws the result away: what `--mode validate` does. Nothing is opened or bound.
pub(crate) fn validate(settings: &Settings, shared: &Shared) -> Result<(), ConfigError> {
    protection(settings)?;
    let mut names = Names::new(Default::default(), Arc::clone(&shared.registry.named));
    names.set_servers(&settings.servers);
    let path = Path::root("static_resources");
    for (index, secret) in settings.secrets.iter().enumerate() {
        names.secrets.set_static(&path.item("secrets", index), secret.clone())?;
    }
    for (index, message) in settings.clusters.iter().enumerate() {
        let path = path.item("clusters", index);
        super::cluster::compile(&path, message, shared, &mut names, None)?;
    }
    for (index, message) in settings.listeners.iter().enumerate() {
        listener::compile(&path.item("listeners", index), message, shared, &mut names)?;
    }
    known_clusters(settings, &names)
}

/// What watches over the process's resources.
pub(crate) fn protection(settings: &Settings) -> Result<Protection, ConfigError> {
    match &settings.overload {
        Some(message) => overload::compile(&Path::root("overload_manager"), message),
        None => Ok(overload::default()),
    }
}

/// As Envoy: a route in the file to a cluster that neither the file has nor a server could give is a mistake.
fn known_clusters(settings: &Settings, names: &Names) -> Result<(), ConfigError> {
    if settings.clusters_from.is_some() {
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
