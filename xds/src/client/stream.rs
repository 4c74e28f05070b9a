//! One stream: what goes over it, and what its end leaves.

use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use weft_kit::backoff::Backoff;

use super::{
    ClientConfig, ConfigSink, MAX_RESPONSE_BYTES, Pace, Phase, Service, expire, expiring, follow_up,
    queue::queue, take, until,
};
use crate::{
    pb::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    session::client::{ClientSession, DeltaClient, SotwClient},
    transport::{StreamError, connect},
};

/// What differs between the variants besides the session: the method to call.
pub(super) trait Dialect: Send {
    /// How names of methods begin.
    const METHOD: &str;
    type Request: prost::Message + Send + Sync + 'static;
    type Response: prost::Message + Default + Send + Sync + 'static;
    type Session: ClientSession<Request = Self::Request, Response = Self::Response>;

    fn session(&mut self) -> &mut Self::Session;
}

pub(super) struct Delta(pub(super) DeltaClient);

pub(super) struct Sotw(pub(super) SotwClient);

/// Tells the sink when the stream ends, however it does.
struct Connected<'a, S: ConfigSink> {
    sink: &'a mut S,
}

/// From the connection to its end.
pub(super) async fn stream<D: Dialect>(
    config: &ClientConfig,
    dialect: &mut D,
    sink: &mut impl ConfigSink,
    pace: &Arc<Pace>,
    backoff: &mut Backoff,
    phase: &mut Phase,
) -> Result<(), StreamError> {
    let deadline = match *phase {
        Phase::Starting(patience) => Some(Instant::now() + patience),
        Phase::Running => None,
    };
    let connecting = connect(&config.server, config.secure.as_ref(), config.connect_timeout);
    let channel = within(deadline, expiring(dialect.session(), sink, connecting)).await??;
    let (requests, receiver) = queue();
    // Before the stream is open, as some servers answer nothing, not even the headers, until they are asked.
    let _ = requests.send(dialect.session().open(&sink.wanted()), None);
    let paced = Arc::clone(pace).apply(receiver).map(|queued| queued.request);
    let requests_with_metadata = config.metadata.request(paced)?;
    let opening = start::<D>(channel, requests_with_metadata, config.service);
    let opening = expiring(dialect.session(), sink, opening);
    let mut responses = within(deadline, opening).await?.map_err(StreamError::Open)?;
    tracing::info!(server = %config.server, service = %config.service, "configuration stream opened");
    let connected = Connected::new(sink);
    let mut deadline = deadline;
    loop {
        let next = async {
            let room = requests.room().await;
            responses.message().await.map(|response| (response, room))
        };
        let (response, room) = tokio::select! {
            response = within(deadline, next) => response?.map_err(StreamError::Lost)?,
            () = until(dialect.session().deadline()) => {
                expire(dialect.session(), connected.sink);
                if !requests.send(follow_up(dialect.session(), connected.sink), None) {
                    break;
                }
                continue;
            }
            () = config.wanted_changed.notified() => {
                if !requests.send(follow_up(dialect.session(), connected.sink), None) {
                    break;
                }
                continue;
            }
        };
        let Some(response) = response else { break };
        backoff.reset();
        deadline = None;
        *phase = Phase::Running;
        let answers = take(dialect.session(), connected.sink, response);
        if !requests.send(answers, room) {
            break;
        }
    }
    Ok(())
}

async fn within<T>(deadline: Option<Instant>, what: impl Future<Output = T>) -> Result<T, StreamError> {
    match deadline {
        Some(deadline) => timeout_at(deadline, what).await.map_err(|_| StreamError::Silent),
        None => Ok(what.await),
    }
}

/// Opens the stream. All services of the protocol have the same form, so that one call does for all of them.
async fn start<D: Dialect>(
    channel: Channel,
    requests: Request<impl Stream<Item = D::Request> + Send + 'static>,
    service: Service,
) -> Result<Streaming<D::Response>, Status> {
    let mut grpc = Grpc::new(channel)
        .max_decoding_message_size(MAX_RESPONSE_BYTES)
        .max_encoding_message_size(usize::MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(service.method(D::METHOD))
        .map_err(|error| Status::internal(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<D::Request, D::Response>::default();
    Ok(grpc.streaming(requests, path, codec).await?.into_inner())
}

// === impl Connected ===

impl<'a, S: ConfigSink> Connected<'a, S> {
    fn new(sink: &'a mut S) -> Self {
        sink.connected(true);
        Self { sink }
    }
}

impl<S: ConfigSink> Drop for Connected<'_, S> {
    fn drop(&mut self) {
        self.sink.connected(false);
    }
}

// === impl Delta ===

impl Dialect for Delta {
    const METHOD: &str = "Delta";
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    type Session = DeltaClient;

    fn session(&mut self) -> &mut DeltaClient {
        &mut self.0
    }
}

// === impl Sotw ===

impl Dialect for Sotw {
    const METHOD: &str = "Stream";
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    type Session = SotwClient;

    fn session(&mut self) -> &mut SotwClient {
        &mut self.0
    }
}
