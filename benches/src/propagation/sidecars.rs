//! Clients that take everything and do nothing with it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use weft_api::mesh::METADATA_TRAFFIC;
use weft_xds::{
    ResourceType,
    pb::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{
                DeltaDiscoveryRequest, DiscoveryRequest,
                aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
            },
        },
        google::protobuf::{Any, Struct, Value, value::Kind},
    },
};

use super::world;

/// Which variant of the protocol the clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// What the clients are.
#[derive(Debug, Clone, clap::Args)]
pub struct Fleet {
    /// How many there are
    #[arg(long, default_value_t = 1000)]
    pub proxies: usize,

    /// How many of them share a connection
    #[arg(long, default_value_t = 1)]
    pub per_connection: usize,

    /// What they speak
    #[arg(long, value_enum, default_value_t = Variant::Delta)]
    pub variant: Variant,

    /// How many services each asks for the endpoints and routes of; all if not given
    #[arg(long)]
    pub uses: Option<usize>,
}

/// Connects all of them and acknowledges until killed.
pub async fn run(address: &str, fleet: &Fleet) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let mut tasks = JoinSet::new();
    let mut channel = None;
    for number in 0..fleet.proxies {
        let shared = match channel.take().filter(|_| number % fleet.per_connection.max(1) != 0) {
            Some(shared) => shared,
            None => endpoint.connect().await.context("cannot connect")?,
        };
        let client =
            AggregatedDiscoveryServiceClient::new(shared.clone()).max_decoding_message_size(usize::MAX);
        channel = Some(shared);
        let uses = fleet.uses.unwrap_or(usize::MAX);
        match fleet.variant {
            Variant::Delta => tasks.spawn(delta(client, number, uses)),
            Variant::Sotw => tasks.spawn(sotw(client, number, uses)),
        };
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

fn node(number: usize) -> Node {
    let mode = Value { kind: Some(Kind::StringValue("redirect".into())) };
    let pod = world::pod_id(number);
    Node {
        id: format!("sidecar~{}~{}", pod.namespace, pod.name),
        metadata: Some(Struct { fields: [(METADATA_TRAFFIC.to_owned(), mode)].into() }),
        ..Node::default()
    }
}

/// What is asked for by the names that came: endpoints of clusters, routes of listeners.
fn follows(type_: ResourceType) -> Option<ResourceType> {
    match type_ {
        ResourceType::Cluster => Some(ResourceType::ClusterLoadAssignment),
        ResourceType::Listener => Some(ResourceType::RouteConfiguration),
        _ => None,
    }
}

async fn delta(
    mut client: AggregatedDiscoveryServiceClient<Channel>,
    number: usize,
    uses: usize,
) -> anyhow::Result<()> {
    let (requests, receiver) = mpsc::channel(8);
    let ask = |type_: ResourceType| DeltaDiscoveryRequest {
        type_url: type_.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(DeltaDiscoveryRequest { node: Some(node(number)), ..ask(ResourceType::Cluster) }).await?;
    requests.send(ask(ResourceType::Listener)).await?;
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let type_ = ResourceType::from_type_url(&response.type_url).context("an unknown type")?;
        requests.send(DeltaDiscoveryRequest { response_nonce: response.nonce, ..ask(type_) }).await?;
        if let Some(next) = follows(type_) {
            let mesh =
                response.resources.into_iter().map(|resource| resource.name).filter(|name| is_of_mesh(name));
            let names: Vec<_> = mesh.take(uses).collect();
            requests.send(DeltaDiscoveryRequest { resource_names_subscribe: names, ..ask(next) }).await?;
        }
    }
    anyhow::bail!("the control service ended the stream")
}

async fn sotw(
    mut client: AggregatedDiscoveryServiceClient<Channel>,
    number: usize,
    uses: usize,
) -> anyhow::Result<()> {
    let (requests, receiver) = mpsc::channel(8);
    let mut asked: BTreeMap<ResourceType, (Vec<String>, String, String)> = BTreeMap::new();
    let ask =
        |type_: ResourceType, (names, version, nonce): (Vec<String>, String, String)| DiscoveryRequest {
            type_url: type_.type_url().to_owned(),
            resource_names: names,
            version_info: version,
            response_nonce: nonce,
            ..DiscoveryRequest::default()
        };
    let first = ask(ResourceType::Cluster, Default::default());
    requests.send(DiscoveryRequest { node: Some(node(number)), ..first }).await?;
    requests.send(ask(ResourceType::Listener, Default::default())).await?;
    let mut responses = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let type_ = ResourceType::from_type_url(&response.type_url).context("an unknown type")?;
        let state = asked.entry(type_).or_default();
        (state.1, state.2) = (response.version_info, response.nonce);
        requests.send(ask(type_, state.clone())).await?;
        if let Some(next) = follows(type_) {
            let state = asked.entry(next).or_default();
            let names: Vec<_> = response.resources.iter().filter_map(name).take(uses).collect();
            if state.0 != names {
                state.0 = names;
                requests.send(ask(next, state.clone())).await?;
            }
        }
    }
    anyhow::bail!("the control service ended the stream")
}

fn is_of_mesh(name: &str) -> bool {
    name.starts_with("service-")
}

/// The first field of clusters and listeners is their name: read without decoding the rest.
fn name(resource: &Any) -> Option<String> {
    let [0x0a, length, rest @ ..] = resource.value.as_slice() else { return None };
    let name = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
    is_of_mesh(name).then(|| name.to_owned())
}
