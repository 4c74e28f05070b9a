//! Streams without sockets, at the tests' own time.

use std::{convert::Infallible, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service as _, http},
};

use super::{AdsService, Snapshot, SnapshotCache};
use crate::{
    pb::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        },
        google::protobuf::Any,
    },
    resource::ResourceType,
};

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A client's end of a delta stream.
struct Client {
    requests: mpsc::UnboundedSender<Bytes>,
    body: Body,
    heard: BytesMut,
}

impl Client {
    async fn open(service: &mut AdsService, id: &str, features: &[&str]) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let frames =
            UnboundedReceiverStream::new(receiver).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let request = http::Request::post(DELTA).body(Body::new(StreamBody::new(frames))).expect("a request");
        let Ok(response) = service.call(request).await;
        let client = Self { requests, body: response.into_body(), heard: BytesMut::new() };
        client.say(DeltaDiscoveryRequest {
            node: Some(Node {
                id: id.to_owned(),
                client_features: features.iter().map(|feature| (*feature).to_owned()).collect(),
                ..Default::default()
            }),
            type_url: ResourceType::Cluster.type_url().to_owned(),
            ..Default::default()
        });
        client
    }

    fn say(&self, request: DeltaDiscoveryRequest) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(request.encoded_len()).expect("a short request"));
        frame.put(request.encode_to_vec().as_slice());
        self.requests.send(frame.freeze()).expect("the stream is open");
    }

    fn answer(&self, response: &DeltaDiscoveryResponse) {
        self.say(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        });
    }

    /// The next response, or how the stream ended.
    async fn hear(&mut self) -> Result<DeltaDiscoveryResponse, http::HeaderMap> {
        loop {
            if let Some(length) = self.heard.get(1..5).map(|mut length| length.get_u32() as usize)
                && self.heard.len() >= 5 + length
            {
                let message = self.heard.split_to(5 + length).split_off(5);
                return Ok(DeltaDiscoveryResponse::decode(message).expect("a response"));
            }
            let frame = self.body.frame().await.expect("the stream has an end").expect("no error");
            match frame.into_data() {
                Ok(data) => self.heard.extend_from_slice(&data),
                Err(frame) => return Err(frame.into_trailers().expect("data or trailers")),
            }
        }
    }
}

fn snapshot(content: &str) -> Snapshot {
    let body = Any { type_url: ResourceType::Cluster.type_url().to_owned(), value: content.into() };
    Snapshot { clusters: [("web".to_owned(), body)].into(), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_for_minutes_is_disconnected_with_the_reason() {
    let cache = SnapshotCache::new();
    ["stuck", "alive"].into_iter().for_each(|id| cache.set(id, snapshot("")));
    let mut service = AdsService::new(cache.clone(), CancellationToken::new());
    let watching = tokio::spawn(service.clone().end_overdue());
    let mut stuck = Client::open(&mut service, "stuck", &[]).await;
    let mut alive = Client::open(&mut service, "alive", &[]).await;
    let opened = Instant::now();
    stuck.hear().await.expect("clusters");
    let response = alive.hear().await.expect("clusters");

    // Late is not too late, and what is unanswered then is another response.
    tokio::time::sleep(Duration::from_secs(280)).await;
    alive.answer(&response);
    cache.set("alive", snapshot("\u{1}"));
    let response = alive.hear().await.expect("a change");
    assert!(stuck.hear().now_or_never().is_none(), "there is time yet");

    let trailers = stuck.hear().await.expect_err("it is over");
    let waited = opened.elapsed();
    assert!((300..=330).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(trailers["grpc-status"], "4");
    let message = trailers["grpc-message"].to_str().expect("text");
    assert!(
        message.contains("v3.Cluster") && message.contains("not%20answered%20within%20300%20s"),
        "{message}"
    );
    assert!(alive.hear().now_or_never().is_none(), "others are left alone");
    alive.answer(&response);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(alive.hear().now_or_never().is_none(), "nothing is unanswered");
    let overdue: f64 = cache
        .collector()
        .collect()
        .iter()
        .filter(|family| family.name() == "weft_xds_streams_overdue_total")
        .flat_map(|family| family.get_metric())
        .map(|metric| metric.get_counter().get_value())
        .sum();
    assert!((overdue - 1.0).abs() < f64::EPSILON, "{overdue}");
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_come_in_time_to_who_understands_them() {
    let cache = SnapshotCache::new();
    let ttl = Duration::from_secs(10);
    let living =
        Snapshot { ttls: [(ResourceType::Cluster, [("web".to_owned(), ttl)].into())].into(), ..snapshot("") };
    ["old", "new"].into_iter().for_each(|id| cache.set(id, living.clone()));
    let mut service = AdsService::new(cache.clone(), CancellationToken::new());
    let mut old = Client::open(&mut service, "old", &[]).await;
    let mut new = Client::open(&mut service, "new", &["xds.config.supports-resource-ttl"]).await;
    let response = old.hear().await.expect("clusters");
    assert_eq!((response.resources.len(), response.resources[0].ttl), (1, None));
    old.answer(&response);

    let first = new.hear().await.expect("clusters");
    assert_eq!(first.resources[0].ttl.map(|ttl| ttl.seconds), Some(10));
    new.answer(&first);
    for _ in 0..3 {
        let before = Instant::now();
        let sign = new.hear().await.expect("a sign of life");
        assert_eq!(before.elapsed().as_secs(), 5);
        let [web] = sign.resources.as_slice() else { panic!("one resource") };
        assert_eq!((web.name.as_str(), &web.version), ("web", &first.resources[0].version));
        assert_eq!((&web.resource, web.ttl.map(|ttl| ttl.seconds)), (&None, Some(10)));
        new.answer(&sign);
    }
    cache.set("new", Snapshot::default());
    let gone = new.hear().await.expect("a removal");
    assert_eq!((gone.resources.len(), gone.removed_resources), (0, vec!["web".to_owned()]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(new.hear().now_or_never().is_none() && old.hear().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_is_there_has_not_asked_for_a_type_before_it_does() {
    let cache = SnapshotCache::new();
    cache.set("proxy", snapshot(""));
    let mut service = AdsService::new(cache.clone(), CancellationToken::new());
    let endpoints = ResourceType::ClusterLoadAssignment;
    assert!(!cache.has_asked("proxy", endpoints));
    let mut client = Client::open(&mut service, "proxy", &[]).await;
    client.hear().await.expect("clusters");
    assert!(cache.has_asked("proxy", ResourceType::Cluster));
    assert!(!cache.has_asked("proxy", endpoints));
    assert_eq!(cache.holders(endpoints, "web"), []);
    client.say(DeltaDiscoveryRequest {
        type_url: endpoints.type_url().to_owned(),
        resource_names_subscribe: vec!["web".to_owned()],
        ..Default::default()
    });
    client.hear().await.expect("that there is no such set");
    assert!(cache.has_asked("proxy", endpoints));
    assert_eq!(cache.holders(endpoints, "web"), [("proxy".to_owned(), None)]);
}
