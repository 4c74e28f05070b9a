//! What control tells of its clients over CSDS.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};
use weft_xds::{
    ResourceType, any,
    pb::{
        envoy::{
            admin::v3::ClientResourceStatus,
            config::cluster::v3::Cluster,
            extensions::transport_sockets::tls::v3::Secret,
            service::{
                discovery::v3::{
                    DeltaDiscoveryRequest, DeltaDiscoveryResponse, ResourceError, ResourceName,
                    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
                },
                status::v3::{
                    ClientConfig, ClientStatusRequest, ConfigStatus, client_config::GenericXdsConfig,
                    client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
                },
            },
            r#type::matcher::v3::{NodeMatcher, RegexMatcher, StringMatcher, string_matcher::MatchPattern},
        },
        google::rpc::Status,
    },
    server::SnapshotCache,
};

use crate::support::{TestServer, endpoints as endpoint_set, eventually, node, snapshot};

/// One delta stream, word by word.
struct Raw {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Raw {
    async fn open(server: &TestServer, id: &str) -> Self {
        let address = server.server().to_string();
        let mut client = AggregatedDiscoveryServiceClient::connect(address).await.unwrap();
        let (requests, receiver) = mpsc::channel(8);
        let first = DeltaDiscoveryRequest { node: Some(node(id)), ..ask(ResourceType::Cluster, &[]) };
        requests.send(first).await.unwrap();
        let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap();
        Self { requests, responses: responses.into_inner() }
    }

    async fn ask(&self, type_: ResourceType, names: &[&str]) {
        self.requests.send(ask(type_, names)).await.unwrap();
    }

    async fn response(&mut self) -> DeltaDiscoveryResponse {
        self.responses.message().await.unwrap().expect("the stream is open")
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error_detail: Option<Status>) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail,
            ..Default::default()
        };
        self.requests.send(request).await.unwrap();
    }
}

fn ask(type_: ResourceType, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_.type_url().into(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// As our proxy refuses one resource of several.
fn refusal(name: &str, reason: &str) -> Status {
    let status = |message: &str| Status { code: 3, message: message.into(), details: Vec::new() };
    let error = ResourceError {
        resource_name: Some(ResourceName { name: name.into(), ..Default::default() }),
        error_detail: Some(status(reason)),
    };
    Status { details: vec![any::pack(&error)], ..status(&format!("{name}: {reason}")) }
}

fn on_id(pattern: MatchPattern) -> ClientStatusRequest {
    let node_id = Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() });
    let node_matchers = vec![NodeMatcher { node_id, ..Default::default() }];
    ClientStatusRequest { node_matchers, ..Default::default() }
}

async fn csds(server: &TestServer) -> ClientStatusDiscoveryServiceClient<Channel> {
    ClientStatusDiscoveryServiceClient::connect(server.server().to_string()).await.unwrap()
}

async fn fetch(
    client: &mut ClientStatusDiscoveryServiceClient<Channel>,
    request: ClientStatusRequest,
) -> Vec<ClientConfig> {
    client.fetch_client_status(request).await.unwrap().into_inner().config
}

/// The state of each resource: what control says, and what it knows of the client.
fn states(config: &ClientConfig) -> BTreeMap<(ResourceType, String), (ConfigStatus, ClientResourceStatus)> {
    let state = |one: &GenericXdsConfig| {
        let type_ = ResourceType::from_type_url(&one.type_url).unwrap();
        ((type_, one.name.clone()), (one.config_status(), one.client_status()))
    };
    config.generic_xds_configs.iter().map(state).collect()
}

fn find<'a>(config: &'a ClientConfig, type_: ResourceType, name: &str) -> &'a GenericXdsConfig {
    let is_it = |one: &&GenericXdsConfig| one.type_url == type_.type_url() && one.name == name;
    config.generic_xds_configs.iter().find(is_it).expect("it is listed")
}

#[tokio::test]
async fn csds_tells_of_each_resource_how_far_each_client_is() {
    use ClientResourceStatus::{Acked, DoesNotExist, Nacked, Requested};
    use ResourceType::{Cluster as C, ClusterLoadAssignment as E, Secret as S};

    let (cache, id) = (SnapshotCache::new(), "sidecar~default~web-1");
    let mut state = snapshot(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
    let bad = any::pack(&Cluster { name: "bad".into(), ..Default::default() });
    state.clusters.insert("bad".into(), bad.clone());
    let key = any::pack(&Secret { name: "key".into(), ..Default::default() });
    state.secrets.insert("key".into(), key);
    cache.set(id, state.clone());
    let server = TestServer::start(&cache).await;
    let mut client = csds(&server).await;
    assert_eq!(fetch(&mut client, ClientStatusRequest::default()).await, []);

    let mut stream = Raw::open(&server, id).await;
    let _other = Raw::open(&server, "gateway~~n1").await;
    let clusters = stream.response().await;
    stream.answer(&clusters, Some(refusal("bad", "lb_policy: is bad"))).await;
    stream.ask(E, &["web", "nowhere"]).await;
    let endpoints = stream.response().await;
    assert_eq!(endpoints.resources.len(), 1);
    // While one response is unanswered, there is more to tell of its type, and what comes after that waits.
    state.endpoints.insert("web".into(), endpoint_set("web", ([127, 0, 0, 1], 3).into()));
    cache.set(id, state.clone());
    assert!(cache.books(id).is_some_and(|books| books.unanswered_for.is_some()));
    stream.ask(S, &["key"]).await;

    let exact = on_id(MatchPattern::Exact(id.into()));
    let config = eventually("control knows that the client asks for secrets", async || {
        let configs = fetch(&mut client, exact.clone()).await;
        assert_eq!(configs.len(), 1);
        let config = configs.into_iter().next().unwrap();
        config.generic_xds_configs.iter().any(|one| one.type_url == S.type_url()).then_some(config)
    })
    .await;
    let expected = [
        ((C, "bad"), (ConfigStatus::Error, Nacked)),
        ((C, "web"), (ConfigStatus::Synced, Acked)),
        ((E, "nowhere"), (ConfigStatus::Synced, DoesNotExist)),
        ((E, "web"), (ConfigStatus::Stale, Requested)),
        ((S, "key"), (ConfigStatus::NotSent, Requested)),
    ];
    let expected: BTreeMap<_, _> =
        expected.into_iter().map(|((type_, name), state)| ((type_, name.to_owned()), state)).collect();
    assert_eq!(states(&config), expected);
    let refused = find(&config, C, "bad");
    let error = refused.error_state.as_ref().expect("why it was refused");
    assert_eq!((error.details.as_str(), &error.version_info), ("lb_policy: is bad", &refused.version_info));
    assert_eq!((error.failed_configuration.as_ref(), refused.xds_config.as_ref()), (Some(&bad), Some(&bad)));
    assert!(error.last_update_attempt.is_some() && refused.last_updated.is_some());

    // Everything is answered and mended.
    state.clusters.remove("bad");
    cache.set(id, state.clone());
    stream.answer(&endpoints, None).await;
    for _ in 0..3 {
        let response = stream.response().await;
        stream.answer(&response, None).await;
    }
    let config = eventually("everything is acknowledged", async || {
        let config = fetch(&mut client, exact.clone()).await.into_iter().next()?;
        let synced = |(status, _): &(ConfigStatus, _)| *status == ConfigStatus::Synced;
        (states(&config).len() == 4 && states(&config).values().all(synced)).then_some(config)
    })
    .await;
    let web = find(&config, E, "web");
    assert_eq!(web.xds_config.as_ref(), Some(&state.endpoints["web"]));
    assert_ne!(web.version_info, endpoints.resources[0].version);
    assert_eq!(find(&config, S, "key").xds_config, None, "secrets are nobody's business");

    // A stream answers each of its requests; contents can be left out.
    let all = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    let prefix = on_id(MatchPattern::Prefix("gateway~".into()));
    let regex = on_id(MatchPattern::SafeRegex(RegexMatcher::default()));
    let requests = tokio_stream::iter([all, prefix, regex]);
    let mut responses = client.stream_client_status(requests).await.unwrap().into_inner();
    let all = responses.message().await.unwrap().unwrap().config;
    let ids: Vec<_> = all.iter().map(|config| config.node.as_ref().unwrap().id.as_str()).collect();
    assert_eq!(ids, ["gateway~~n1", id]);
    assert!(all[1].generic_xds_configs.iter().all(|one| one.xds_config.is_none()));
    let gateways = responses.message().await.unwrap().unwrap().config;
    assert_eq!(gateways.len(), 1);
    let refused = responses.message().await.expect_err("not supported");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("node_matchers[0].node_id.safe_regex"), "{}", refused.message());
    drop(stream);
    server.stop().await;
}
