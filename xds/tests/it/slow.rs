//! Clients that do not read.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use weft_xds::{
    ResourceType, any,
    pb::envoy::{
        config::cluster::v3::Cluster,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    server::{Snapshot, SnapshotCache},
};

use crate::support::{PATIENCE, TestServer, eventually, node};

/// Together several times what HTTP/2 lets a server send to a client that does not read.
const CLUSTERS: usize = 10_000;

type Stream = (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>);

fn clusters(round: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for number in 0..CLUSTERS {
        let (name, stat) = (format!("cluster-{number}"), format!("{round}-{}", "x".repeat(1000)));
        let cluster = Cluster { name: name.clone(), alt_stat_name: stat, ..Default::default() };
        snapshot.clusters.insert(name, any::pack(&cluster));
    }
    snapshot
}

fn request(id: &str) -> DeltaDiscoveryRequest {
    let type_url = ResourceType::Cluster.type_url().into();
    DeltaDiscoveryRequest { node: Some(node(id)), type_url, ..Default::default() }
}

async fn open(server: &TestServer, id: &str) -> Stream {
    let client = AggregatedDiscoveryServiceClient::connect(server.server().to_string()).await.unwrap();
    let mut client = client.max_decoding_message_size(usize::MAX);
    let (requests, receiver) = mpsc::channel(1);
    requests.send(request(id)).await.unwrap();
    let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap();
    (requests, responses.into_inner())
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_back_and_is_owed_one_response() {
    let cache = SnapshotCache::new();
    let server = TestServer::start(&cache).await;
    let _stuck = open(&server, "stuck").await;
    let (requests, mut responses) = open(&server, "alive").await;
    for round in 0..5 {
        let snapshot = clusters(round);
        cache.set("stuck", snapshot.clone());
        cache.set("alive", snapshot);
        let response = tokio::time::timeout(PATIENCE, responses.message()).await.expect("it comes").unwrap();
        let response = response.expect("the stream goes on");
        assert_eq!(response.resources.len(), CLUSTERS, "round {round}");
        let answer = DeltaDiscoveryRequest { response_nonce: response.nonce, ..request("alive") };
        requests.send(answer).await.unwrap();
        eventually("only the one that does not read owes an answer", async || {
            (cache.unanswered() == 1).then_some(())
        })
        .await;
        let alive = cache.is_acknowledged("alive", ResourceType::Cluster, "cluster-0");
        assert_eq!(alive, Some(true), "round {round}");
    }
    // What it is owed is the first response: what changed since waits for its answer, as names and not as bytes.
    assert_eq!(cache.is_acknowledged("stuck", ResourceType::Cluster, "cluster-0"), Some(false));
    drop((_stuck, requests, responses));
    eventually("nothing is owed to those that are gone", async || (cache.unanswered() == 0).then_some(()))
        .await;
    server.stop().await;
}
