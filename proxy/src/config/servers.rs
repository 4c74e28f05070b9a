//! Servers that give one type of resource each, beside the aggregated stream.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use weft_xds::{
    ResourceType,
    any::type_name,
    client::{Protocol, RequestLimit, ServerAddress},
    name::ResourceName,
    pb::envoy::config::{
        cluster::v3::Cluster,
        core::v3::{
            ApiConfigSource, ConfigSource, RateLimitSettings, RetryPolicy, api_config_source::ApiType,
            grpc_service::TargetSpecifier,
        },
    },
    transport::CallMetadata,
};

use super::{ConfigError, Path, endpoint, service, source::Source, unsupported, value};

/// A server that is asked for configuration, or told the load.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServerRef {
    pub(crate) address: ServerAddress,
    /// Whose TLS is spoken with it.
    pub(crate) cluster: Option<String>,
    /// Names and values told with each gRPC stream.
    pub(crate) metadata: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first and the longest delay between two attempts to open a stream.
    pub(crate) backoff: (Duration, Duration),
    /// How many requests for configuration it is sent at most.
    pub(crate) request_limit: Option<RequestLimit>,
}

/// Envoy's own, for streams of configuration and of load reports.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Envoy's, of `rate_limit_settings`: how many tokens there are at most, how many more each second, and how long one takes
/// at most.
const MAX_TOKENS: u32 = 100;
const FILL_RATE: f64 = 10.0;
const SLOWEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A server that is asked for single types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServerSource {
    pub(crate) server: ServerRef,
    pub(crate) means: Means,
}

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Means {
    /// By a gRPC stream for each type.
    Stream(Protocol),
    /// Again and again.
    Poll { every: Duration, timeout: Duration },
}

/// What the bootstrap says of where configuration may come from.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// Where each of its clusters is, which are all that servers can be in, as others come from servers themselves; `None`
    /// without an endpoint.
    by_cluster: BTreeMap<String, Option<ServerAddress>>,
    /// Who has the resources of which authority (`xdstp`).
    by_authority: BTreeMap<String, Source>,
    /// Who has those of all others.
    of_others: Option<Source>,
}

/// Envoy's.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

// === impl ServerRef ===

impl ServerRef {
    /// What it is told with each stream; `token` is the file with a token, if there is one.
    pub(crate) fn metadata(&self, token: Option<&PathBuf>) -> CallMetadata {
        let mut metadata = CallMetadata::with_token(token.cloned());
        for (name, value) in &self.metadata {
            // Checked when it was read.
            metadata.push(name, value);
        }
        metadata
    }
}

// === impl Servers ===

impl Servers {
    /// Those of the bootstrap.
    pub(crate) fn new(clusters: &[Cluster]) -> Result<Self, ConfigError> {
        let mut by_cluster = BTreeMap::new();
        for (index, cluster) in clusters.iter().enumerate() {
            let path = Path::root("static_resources").item("clusters", index).field("load_assignment");
            let hosts = match &cluster.load_assignment {
                Some(assignment) => endpoint::named(&path, assignment)?.hosts,
                None => Vec::new(),
            };
            let first = hosts.into_iter().next();
            let address = first.map(|host| ServerAddress::Tcp { host: host.host, port: host.port });
            by_cluster.insert(cluster.name.clone(), address);
        }
        Ok(Self { by_cluster, ..Self::default() })
    }

    /// `config_sources` and `default_config_source`
    pub(super) fn set_authorities(
        &mut self,
        path: &Path,
        sources: &[ConfigSource],
        of_others: Option<&ConfigSource>,
    ) -> Result<(), ConfigError> {
        for (index, message) in sources.iter().enumerate() {
            let path = path.item("config_sources", index);
            if message.authorities.is_empty() {
                return Err(path.field("authorities").missing());
            }
            let source = self.whole(&path, message)?;
            for (index, authority) in message.authorities.iter().enumerate() {
                let taken = self.by_authority.insert(authority.name.clone(), source.clone()).is_some();
                if taken || authority.name.is_empty() {
                    let path = path.item("authorities", index).field("name");
                    return Err(path.error("must be there and unique"));
                }
            }
        }
        let path = path.field("default_config_source");
        self.of_others = of_others.map(|message| self.whole(&path, message)).transpose()?;
        Ok(())
    }

    /// A source of all types of an authority.
    fn whole(&self, path: &Path, message: &ConfigSource) -> Result<Source, ConfigError> {
        let message = ConfigSource { authorities: Vec::new(), ..message.clone() };
        let source = Source::read(path, Some(&message), ResourceType::ClusterLoadAssignment, self)?;
        if matches!(source, Source::File(_)) {
            return Err(path.field("path_config_source").unsupported());
        }
        Ok(source)
    }

    /// Who has the resource of this structured name.
    pub(super) fn authority(
        &self,
        path: &Path,
        name: &str,
        type_: ResourceType,
    ) -> Result<Source, ConfigError> {
        let read: ResourceName =
            name.parse().map_err(|error: weft_xds::name::NameError| path.error(error.to_string()))?;
        if read.type_ != type_name(type_.type_url()) {
            return Err(path.error(format!("{name:?} is no name of this type of resource")));
        }
        if read.is_glob() {
            return Err(path.error(format!("{name:?} is more than one")));
        }
        let source = self.by_authority.get(&read.authority).or(self.of_others.as_ref());
        let source = source.ok_or_else(|| {
            path.error(format!("the bootstrap has no config_sources for authority {:?}", read.authority))
        })?;
        if let Source::Server(server) = source {
            server.check(path, type_)?;
        }
        Ok(source.clone())
    }

    fn find(&self, path: &Path, cluster: &str) -> Result<ServerRef, ConfigError> {
        match self.by_cluster.get(cluster) {
            None => Err(path.error(format!("there is no static cluster {cluster:?}"))),
            Some(None) => Err(path.error("the cluster has no endpoint")),
            Some(Some(address)) => {
                let (address, cluster) = (address.clone(), Some(cluster.to_owned()));
                Ok(ServerRef {
                    address,
                    cluster,
                    metadata: Vec::new(),
                    backoff: BACKOFF,
                    request_limit: None,
                })
            }
        }
    }

    /// Where the server of a gRPC configuration source listens.
    pub(crate) fn grpc(&self, path: &Path, source: &ApiConfigSource) -> Result<ServerRef, ConfigError> {
        unsupported!(path, source; cluster_names, config_validators);
        let [service] = source.grpc_services.as_slice() else {
            return Err(path.field("grpc_services").error("exactly one is supported"));
        };
        let limit_path = path.field("rate_limit_settings");
        let limit = source.rate_limit_settings.as_ref();
        let request_limit = limit.map(|limit| request_limit(&limit_path, limit)).transpose()?;
        let path = path.item("grpc_services", 0);
        let mut metadata = Vec::new();
        for (index, field) in service.initial_metadata.iter().enumerate() {
            let path = path.item("initial_metadata", index);
            let (name, value) = value::plain_field(&path, field)?;
            if !CallMetadata::default().push(&name, &value) {
                return Err(path.error("cannot be told in gRPC metadata"));
            }
            metadata.push((name, value));
        }
        if service.retry_policy.is_some() {
            let path = path.field("retry_policy");
            return Err(path.error("is for other streams; give envoy_grpc.retry_policy"));
        }
        match &service.target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(grpc)) => {
                let found = self.find(&path.field("envoy_grpc.cluster_name"), &grpc.cluster_name)?;
                let backoff = backoff(&path.field("envoy_grpc.retry_policy"), grpc.retry_policy.as_ref())?;
                Ok(ServerRef { metadata, backoff, request_limit, ..found })
            }
            Some(TargetSpecifier::GoogleGrpc(grpc)) => {
                let path = path.field("google_grpc");
                unsupported!(path, grpc; channel_credentials, channel_credentials_plugin, call_credentials,
                    call_credentials_plugin, credentials_factory_name, config, channel_args);
                let address =
                    grpc.target_uri.parse().map_err(|error: weft_xds::transport::AddressError| {
                        path.field("target_uri").error(error.to_string())
                    })?;
                Ok(ServerRef { address, cluster: None, metadata, backoff: BACKOFF, request_limit })
            }
            None => Err(path.field("envoy_grpc").missing()),
        }
    }
}

/// How many requests for configuration go to a server. Envoy has it for gRPC only, and reads it over elsewhere.
fn request_limit(path: &Path, message: &RateLimitSettings) -> Result<RequestLimit, ConfigError> {
    let max = value::number(message.max_tokens.as_ref(), MAX_TOKENS);
    if max == 0 {
        return Err(path.field("max_tokens").error("must be more than zero, or nothing is ever asked for"));
    }
    let rate = message.fill_rate.as_ref().map_or(FILL_RATE, |rate| rate.value);
    if !(rate > 0.0 && rate.is_finite()) {
        return Err(path.field("fill_rate").error("must be a number of tokens per second, more than zero"));
    }
    let every = Duration::try_from_secs_f64(rate.recip()).unwrap_or(SLOWEST);
    Ok(RequestLimit { max, every: every.clamp(Duration::from_nanos(1), SLOWEST) })
}

/// How a stream that was lost is opened again. A limit that is not given is ten times the first delay.
fn backoff(path: &Path, policy: Option<&RetryPolicy>) -> Result<(Duration, Duration), ConfigError> {
    let Some(policy) = policy else { return Ok(BACKOFF) };
    unsupported!(path, policy; num_retries, retry_on, retry_priority, retry_host_predicate,
        host_selection_retry_max_attempts);
    let path = path.field("retry_back_off");
    let Some(times) = &policy.retry_back_off else { return Ok(BACKOFF) };
    let base_path = path.field("base_interval");
    let base = value::limit(&base_path, times.base_interval.as_ref(), None)?;
    let base = base.ok_or_else(|| base_path.error("must be more than zero"))?;
    let max_path = path.field("max_interval");
    let max = value::limit(&max_path, times.max_interval.as_ref(), Some(base * 10))?;
    match max.filter(|max| *max >= base) {
        Some(max) => Ok((base, max)),
        None => Err(max_path.error("is less than base_interval")),
    }
}

// === impl ServerSource ===

impl ServerSource {
    /// `api_config_source`
    pub(crate) fn read(
        path: &Path,
        message: &ApiConfigSource,
        servers: &Servers,
    ) -> Result<Self, ConfigError> {
        service::api_version(path, message.transport_api_version)?;
        let protocol = match ApiType::try_from(message.api_type) {
            Ok(ApiType::Grpc) => Protocol::Sotw,
            Ok(ApiType::DeltaGrpc) => Protocol::Delta,
            Ok(ApiType::Rest) => return Self::polled(path, message, servers),
            _ => return Err(path.field("api_type").error("only GRPC, DELTA_GRPC and REST are supported")),
        };
        Ok(Self { server: servers.grpc(path, message)?, means: Means::Stream(protocol) })
    }

    fn polled(path: &Path, message: &ApiConfigSource, servers: &Servers) -> Result<Self, ConfigError> {
        unsupported!(path, message; grpc_services, config_validators);
        let [cluster] = message.cluster_names.as_slice() else {
            return Err(path.field("cluster_names").error("exactly one is supported"));
        };
        let server = servers.find(&path.item("cluster_names", 0), cluster)?;
        let every = path.field("refresh_delay");
        let every = match value::maybe_duration(&every, message.refresh_delay.as_ref())? {
            None => return Err(every.missing()),
            Some(zero) if zero.is_zero() => return Err(every.error("must be more than zero")),
            Some(time) => time,
        };
        let timeout =
            value::maybe_duration(&path.field("request_timeout"), message.request_timeout.as_ref())?;
        Ok(Self { server, means: Means::Poll { every, timeout: timeout.unwrap_or(REQUEST_TIMEOUT) } })
    }

    /// Whether it can give this type.
    pub(crate) fn check(&self, path: &Path, type_: ResourceType) -> Result<(), ConfigError> {
        let gives = match self.means {
            Means::Stream(protocol) => protocol == Protocol::Delta || type_.has_sotw(),
            Means::Poll { .. } => type_.rest_noun().is_some(),
        };
        if gives { Ok(()) } else { Err(path.field("api_config_source.api_type").unsupported()) }
    }

    /// For people, and to tell what it gives from what others do.
    pub(crate) fn label(&self) -> String {
        self.server.cluster.clone().unwrap_or_else(|| self.server.address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_xds::json::from_json;

    use super::*;

    fn sources(list: Value) -> Result<Servers, ConfigError> {
        let cluster = json!({"name": "control", "load_assignment": {"cluster_name": "control", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 1}}}}]},
        ]}});
        let mut servers = Servers::new(&[from_json(&cluster).expect("a cluster")]).expect("good");
        let list: Vec<ConfigSource> = match list {
            Value::Array(list) => list.iter().map(|one| from_json(one).expect("a source")).collect(),
            other => panic!("{other} is no list"),
        };
        servers.set_authorities(&Path::default(), &list, None)?;
        Ok(servers)
    }

    fn polled(authorities: &[&str]) -> Value {
        let authorities: Vec<_> = authorities.iter().map(|name| json!({"name": name})).collect();
        json!({"authorities": authorities, "api_config_source": {
            "api_type": "REST", "cluster_names": ["control"], "refresh_delay": "2s",
        }})
    }

    #[test]
    fn a_polled_server_has_its_times_and_its_place() {
        let source: ApiConfigSource = from_json(&polled(&["a"])["api_config_source"]).expect("a source");
        let read = ServerSource::read(&Path::default(), &source, &sources(json!([])).expect("good"));
        let read = read.expect("good");
        let (every, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(read.means, Means::Poll { every, timeout });
        assert_eq!(
            (read.label().as_str(), read.server.address.to_string().as_str()),
            ("control", "http://10.0.0.1:1")
        );
        read.check(&Path::default(), ResourceType::VirtualHost).expect_err("hosts are not polled for");
    }

    #[test]
    fn how_often_a_server_is_asked_is_limited_as_it_says() {
        let read = |limit: Value| {
            let source: ApiConfigSource = from_json(&json!({
                "api_type": "GRPC", "grpc_services": [{"envoy_grpc": {"cluster_name": "control"}}],
                "rate_limit_settings": limit,
            }))
            .expect("a source");
            let read = ServerSource::read(&Path::root("x"), &source, &sources(json!([])).expect("good"));
            read.map(|read| read.server.request_limit).map_err(|error| error.to_string())
        };
        let limit = |max, every| Ok(Some(RequestLimit { max, every }));
        assert_eq!(read(json!(null)), Ok(None));
        assert_eq!(read(json!({})), limit(100, Duration::from_millis(100)));
        assert_eq!(read(json!({"max_tokens": 3, "fill_rate": 0.5})), limit(3, Duration::from_secs(2)));
        assert_eq!(read(json!({"fill_rate": 1e-300})), limit(100, SLOWEST));
        assert_eq!(read(json!({"fill_rate": 1e300})), limit(100, Duration::from_nanos(1)));
        for (bad, path) in [
            (json!({"max_tokens": 0}), "x.rate_limit_settings.max_tokens: must be"),
            (json!({"fill_rate": 0}), "x.rate_limit_settings.fill_rate: must be"),
            (json!({"fill_rate": -1}), "x.rate_limit_settings.fill_rate: must be"),
            (json!({"fill_rate": "NaN"}), "x.rate_limit_settings.fill_rate: must be"),
        ] {
            let error = read(bad).expect_err(path);
            assert!(error.starts_with(path), "{error}");
        }
    }

    #[test]
    fn each_authority_has_one_source() {
        let servers = sources(json!([polled(&["a", "b"])])).expect("good");
        let find = |name: &str| {
            let path = Path::root("x");
            servers
                .authority(&path, name, ResourceType::ClusterLoadAssignment)
                .map_err(|error| error.to_string())
        };
        let kind = "envoy.config.endpoint.v3.ClusterLoadAssignment";
        assert!(matches!(find(&format!("xdstp://b/{kind}/x")), Ok(Source::Server(_))));
        for (name, reason) in [
            (format!("xdstp://c/{kind}/x"), "no config_sources for authority \"c\""),
            (format!("xdstp://a/{kind}/x/*"), "more than one"),
            ("xdstp://a/envoy.config.cluster.v3.Cluster/x".to_owned(), "no name of this type"),
            ("xdstp://a".to_owned(), "has no type"),
        ] {
            let error = find(&name).expect_err(&name);
            assert!(error.starts_with("x: ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn authorities_are_there_and_named_once() {
        for (list, path) in [
            (json!([polled(&[])]), "config_sources[0].authorities: is required"),
            (json!([polled(&["a"]), polled(&["b", "a"])]), "config_sources[1].authorities[1].name: must be"),
            (json!([polled(&[""])]), "config_sources[0].authorities[0].name: must be"),
        ] {
            let error = sources(list).expect_err(path).to_string();
            assert!(error.starts_with(path), "{error}");
        }
    }
}
