//! Makes `src/json/descriptors.bin`: the part of Envoy's API that the configuration language of Weft knows.
//!
//! `cargo run -p weft-xds --example descriptors` takes the descriptors that the crate `envoy-types` carries, keeps the
//! messages listed in [`ROOTS`] and what these refer to, and drops comments, options and services. To be run again
//! whenever `ROOTS` or the version of `envoy-types` changes. A type that is not in the file is refused by its name in
//! every configuration, so `ROOTS` is also the list of extensions that can be configured at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MessageOptions,
};

/// Messages to keep, with all that they refer to.
const ROOTS: &[&str] = &[
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.core.v3.TypedExtensionConfig",
    "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "envoy.config.endpoint.v3.ClusterStats",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.route.v3.ScopedRouteConfiguration",
    "envoy.config.route.v3.VirtualHost",
    "envoy.data.core.v3.HealthCheckEvent",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.clusters.dns.v3.DnsCluster",
    "envoy.extensions.compression.brotli.compressor.v3.Brotli",
    "envoy.extensions.compression.gzip.compressor.v3.Gzip",
    "envoy.extensions.compression.zstd.compressor.v3.Zstd",
    "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
    "envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
    "envoy.extensions.filters.http.buffer.v3.Buffer",
    "envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
    "envoy.extensions.filters.http.cdn_loop.v3.CdnLoopConfig",
    "envoy.extensions.filters.http.compressor.v3.Compressor",
    "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.cors.v3.CorsPolicy",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
    "envoy.extensions.filters.http.fault.v3.HTTPFault",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    "envoy.extensions.filters.http.health_check.v3.HealthCheck",
    "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
    "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
    "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.filters.http.set_metadata.v3.Config",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.rbac.v3.RBAC",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
    "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
    "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
    "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig",
    "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig",
    "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig",
    "envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
    "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
    "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
    "envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma",
    "envoy.extensions.load_balancing_policies.random.v3.Random",
    "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.load_balancing_policies.subset.v3.Subset",
    "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
    "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
    "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
    "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig",
    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
    "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
    "envoy.extensions.transport_sockets.tls.v3.Secret",
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.service.discovery.v3.DeltaDiscoveryRequest",
    "envoy.service.discovery.v3.DeltaDiscoveryResponse",
    "envoy.service.discovery.v3.DiscoveryRequest",
    "envoy.service.discovery.v3.DiscoveryResponse",
    "envoy.service.load_stats.v3.LoadStatsRequest",
    "envoy.service.load_stats.v3.LoadStatsResponse",
    "envoy.service.runtime.v3.Runtime",
    "google.protobuf.BoolValue",
    "google.protobuf.BytesValue",
    "google.protobuf.DoubleValue",
    "google.protobuf.Empty",
    "google.protobuf.FloatValue",
    "google.protobuf.Int32Value",
    "google.protobuf.Int64Value",
    "google.protobuf.StringValue",
    "google.protobuf.Struct",
    "google.protobuf.Timestamp",
    "google.protobuf.UInt32Value",
    "google.protobuf.UInt64Value",
];

/// Which file declares each message and enum, and what each message refers to. Names begin with a dot, as in fields.
#[derive(Default)]
struct Index {
    file_of: BTreeMap<String, String>,
    refers_to: BTreeMap<String, BTreeSet<String>>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut set = FileDescriptorSet::decode(std::fs::read(descriptors_of_envoy_types()?)?.as_slice())?;
    set.file.push(peak_ewma());
    let mut index = Index::default();
    for file in &set.file {
        index.add_file(file);
    }
    let kept = index.reachable(ROOTS)?;

    let mut files: Vec<_> = set.file.into_iter().filter_map(|file| prune_file(file, &kept, &index)).collect();
    // Sorted, so that the same input gives the same bytes.
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/json/descriptors.bin");
    let (count, bytes) = (files.len(), FileDescriptorSet { file: files }.encode_to_vec());
    std::fs::write(&target, &bytes)?;
    println!("{}: {} bytes, {count} files, {} types", target.display(), bytes.len(), kept.len());
    Ok(())
}

// === impl Index ===

impl Index {
    fn add_file(&mut self, file: &FileDescriptorProto) {
        let scope = match file.package() {
            "" => String::new(),
            package => format!(".{package}"),
        };
        for message in &file.message_type {
            self.add_message(&scope, message, file.name());
        }
        for enumeration in &file.enum_type {
            self.file_of.insert(format!("{scope}.{}", enumeration.name()), file.name().to_owned());
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, file: &str) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested, file);
        }
        for enumeration in &message.enum_type {
            self.file_of.insert(format!("{name}.{}", enumeration.name()), file.to_owned());
        }
        let refers_to = message.field.iter().filter_map(|field| field.type_name.clone()).collect();
        self.refers_to.insert(name.clone(), refers_to);
        self.file_of.insert(name, file.to_owned());
    }

    /// The named messages, what they refer to, and the messages that any of these are nested in.
    fn reachable(&self, roots: &[&str]) -> Result<BTreeSet<String>, String> {
        let mut todo: Vec<_> = roots.iter().map(|root| format!(".{root}")).collect();
        let mut kept = BTreeSet::new();
        while let Some(name) = todo.pop() {
            if !self.file_of.contains_key(&name) {
                return Err(format!("{name} is not in the descriptors"));
            }
            if !kept.insert(name.clone()) {
                continue;
            }
            todo.extend(self.refers_to.get(&name).into_iter().flatten().cloned());
            // Only the shell of an enclosing message is needed, but its fields keep it a valid descriptor.
            if let Some((parent, _)) =
                name.rsplit_once('.').filter(|(parent, _)| self.file_of.contains_key(*parent))
            {
                todo.push(parent.to_owned());
            }
        }
        Ok(kept)
    }
}

fn prune_file(
    file: FileDescriptorProto,
    kept: &BTreeSet<String>,
    index: &Index,
) -> Option<FileDescriptorProto> {
    let scope = format!(".{}", file.package());
    let message_type: Vec<_> =
        file.message_type.into_iter().filter_map(|message| prune_message(message, &scope, kept)).collect();
    let enum_type: Vec<_> =
        file.enum_type.into_iter().filter_map(|enumeration| prune_enum(enumeration, &scope, kept)).collect();
    if message_type.is_empty() && enum_type.is_empty() {
        return None;
    }
    let mut names = BTreeSet::new();
    message_type.iter().for_each(|message| referenced(message, &mut names));
    let dependency: BTreeSet<_> = names
        .iter()
        .map(|name| index.file_of[name].clone())
        .filter(|other| Some(other) != file.name.as_ref())
        .collect();
    Some(FileDescriptorProto {
        name: file.name,
        package: file.package,
        dependency: dependency.into_iter().collect(),
        message_type,
        enum_type,
        syntax: file.syntax,
        ..Default::default()
    })
}

fn prune_message(message: DescriptorProto, scope: &str, kept: &BTreeSet<String>) -> Option<DescriptorProto> {
    let name = format!("{scope}.{}", message.name());
    if !kept.contains(&name) {
        return None;
    }
    // The one option that decides how a message is read: whether it stands for the entries of a map.
    let options = message
        .options
        .and_then(|options| options.map_entry)
        .map(|map_entry| MessageOptions { map_entry: Some(map_entry), ..Default::default() });
    Some(DescriptorProto {
        field: message
            .field
            .into_iter()
            .map(|field| FieldDescriptorProto { options: None, json_name: None, ..field })
            .collect(),
        nested_type: message
            .nested_type
            .into_iter()
            .filter_map(|nested| prune_message(nested, &name, kept))
            .collect(),
        enum_type: message
            .enum_type
            .into_iter()
            .filter_map(|enumeration| prune_enum(enumeration, &name, kept))
            .collect(),
        oneof_decl: message
            .oneof_decl
            .into_iter()
            .map(|oneof| prost_types::OneofDescriptorProto { options: None, ..oneof })
            .collect(),
        options,
        name: message.name,
        ..Default::default()
    })
}

fn prune_enum(
    enumeration: EnumDescriptorProto,
    scope: &str,
    kept: &BTreeSet<String>,
) -> Option<EnumDescriptorProto> {
    kept.contains(&format!("{scope}.{}", enumeration.name())).then(|| EnumDescriptorProto {
        value: enumeration
            .value
            .into_iter()
            .map(|value| prost_types::EnumValueDescriptorProto { options: None, ..value })
            .collect(),
        // Without `allow_alias` two names for one number would be refused.
        options: enumeration.options.and_then(|options| options.allow_alias).map(|allow_alias| {
            prost_types::EnumOptions { allow_alias: Some(allow_alias), ..Default::default() }
        }),
        name: enumeration.name,
        ..Default::default()
    })
}

fn referenced(message: &DescriptorProto, names: &mut BTreeSet<String>) {
    names.extend(message.field.iter().filter_map(|field| field.type_name.clone()));
    message.nested_type.iter().for_each(|nested| referenced(nested, names));
}

/// What `src/balancing.rs` says, since the crate does not carry it.
fn peak_ewma() -> FileDescriptorProto {
    use prost_types::field_descriptor_proto::{Label, Type};
    let field = |(index, (name, of)): (usize, (&str, &str))| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(index as i32 + 1),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::Message.into()),
        type_name: Some(format!(".google.protobuf.{of}")),
        ..Default::default()
    };
    let fields = [
        ("decay_time", "Duration"),
        ("aggregation_interval", "Duration"),
        ("max_samples_per_host", "UInt32Value"),
        ("default_rtt", "Duration"),
        ("penalty_value", "DoubleValue"),
    ];
    FileDescriptorProto {
        name: Some(
            "contrib/envoy/extensions/load_balancing_policies/peak_ewma/v3alpha/peak_ewma.proto".to_owned(),
        ),
        package: Some("envoy.extensions.load_balancing_policies.peak_ewma.v3alpha".to_owned()),
        message_type: vec![DescriptorProto {
            name: Some("PeakEwma".to_owned()),
            field: fields.into_iter().enumerate().map(field).collect(),
            ..Default::default()
        }],
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    }
}

/// `types.bin` of the version of envoy-types that the workspace is built with.
fn descriptors_of_envoy_types() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata knows no package envoy-types")?;
    Ok(Path::new(manifest).with_file_name("src/generated/types.bin"))
}
