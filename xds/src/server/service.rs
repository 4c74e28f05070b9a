//! The gRPC service over the cache.

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    metadata::GRPC_CONTENT_TYPE,
};

use super::{
    CsdsService,
    admission::{self, Admitted},
    body::ResponseBody,
    cache::{ProxyStream, SnapshotCache},
    requests::Requests,
    single::Only,
};
use crate::{
    pb::envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    },
    resource::ResourceType,
    session::server::{Encoding, Handled, ServerSession, Variant},
};

/// How the server calls itself in its responses.
const CONTROL_PLANE: &str = concat!("weft ", env!("CARGO_PKG_VERSION"));

/// A client that knows a hundred thousand resources names them all when it comes back.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// How long a response may be unanswered, unless it is told otherwise. Envoy holds its answer about clusters back while
/// they warm, each type that they need up to 15 s (`initial_fetch_timeout`), and a large world takes a slow machine its
/// time: this is many times both. Who is gone is noticed long before, by the connection's pings.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// The gRPC service `envoy.service.discovery.v3.AggregatedDiscoveryService` over a [`SnapshotCache`].
///
/// Not the generated one: that would encode every response anew, and as a whole, for every stream.
#[derive(Clone)]
pub struct AdsService {
    cache: SnapshotCache,
    shutdown: CancellationToken,
    answer_limit: Duration,
}

/// The types of one variant of the protocol.
trait Dialect: Send + 'static {
    const VARIANT: Variant;
    type Request: Message + Default + 'static;

    fn node(request: &mut Self::Request) -> Option<Node>;
    fn type_url(request: &mut Self::Request) -> &mut String;
    fn handle(session: &mut ServerSession, request: Self::Request) -> Handled;
}

struct Delta;

struct Sotw;

/// To the body of the response.
pub(super) type Responses = mpsc::Sender<Result<Box<Encoding>, Status>>;

// === impl AdsService ===

impl AdsService {
    /// Serves `cache` until `shutdown` is cancelled, which ends all streams.
    pub fn new(cache: SnapshotCache, shutdown: CancellationToken) -> Self {
        Self { cache, shutdown, answer_limit: ANSWER_LIMIT }
    }

    /// Ends streams on which a response is unanswered for as long as this, 5 minutes by default: their clients live, as
    /// they answer pings, and would keep what they have for ever. Who connects again is given everything anew.
    #[must_use]
    pub fn answer_limit(mut self, limit: Duration) -> Self {
        self.answer_limit = limit;
        self
    }

    /// Looks for streams whose clients do not answer, for as long as it is polled.
    pub(super) async fn end_overdue(self) -> Infallible {
        loop {
            // Nobody minds whether it is a tenth longer.
            tokio::time::sleep(self.answer_limit / 10).await;
            self.cache.wake_overdue(self.answer_limit);
        }
    }

    /// What tells of the proxies that this service serves, for as long as it does.
    pub(super) fn csds(&self) -> CsdsService {
        CsdsService::new(self.cache.clone(), self.shutdown.clone())
    }

    fn start<D: Dialect>(&self, request: http::Request<Body>) -> http::Response<Body> {
        let only = request.extensions().get::<Only>().copied();
        let admitted = request.extensions().get::<Admitted>().cloned();
        // As with tonic's own services that were not told of any.
        let encoding = request.headers().get("grpc-encoding");
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Status::unimplemented("requests must not be compressed").into_http();
        }
        let requests = Requests::new(request.into_body(), MAX_REQUEST_BYTES);
        // No type has more than one unanswered response, so that this is never full for a client that is alive.
        let (responses, receiver) = mpsc::channel(ResourceType::ALL.len() + 1);
        let (cache, shutdown, limit) = (self.cache.clone(), self.shutdown.clone(), self.answer_limit);
        // Ends with the stream: on its side when `requests` ends, on ours when `shutdown` is cancelled.
        tokio::spawn(async move {
            let status = tokio::select! {
                status = talk::<D>(cache, admitted, requests, only, &responses, limit) => status,
                () = shutdown.cancelled() => Err(Status::unavailable("the server shuts down")),
                () = responses.closed() => Ok(()),
            };
            if let Err(status) = status {
                // A client that is gone needs no status.
                let _ = responses.try_send(Err(status));
            }
        });
        let mut response = http::Response::new(Body::new(ResponseBody::new(receiver)));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }
}

impl Service<http::Request<Body>> for AdsService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = match request.uri().path() {
            DELTA => self.start::<Delta>(request),
            SOTW => self.start::<Sotw>(request),
            path => Status::unimplemented(format!("{path} is not served here")).into_http(),
        };
        Box::pin(std::future::ready(Ok(response)))
    }
}

/// One stream, from the first request to its end.
async fn talk<D: Dialect>(
    cache: SnapshotCache,
    admitted: Option<Admitted>,
    mut requests: Requests<D::Request>,
    only: Option<Only>,
    responses: &Responses,
    answer_limit: Duration,
) -> Result<(), Status> {
    let restrict = |request: &mut D::Request| match only {
        Some(only) => only.restrict(D::type_url(request)),
        None => Ok(()),
    };
    let Some(mut first) = requests.next().await? else { return Ok(()) };
    restrict(&mut first)?;
    let node = D::node(&mut first).filter(|node| !node.id.is_empty());
    let node =
        node.ok_or_else(|| Status::invalid_argument("the first request must name its node, with an id"))?;
    if let Err(status) = admission::may_be(admitted.as_ref(), &node) {
        tracing::warn!(proxy = node.id, reason = status.message(), "stream refused");
        return Err(status);
    }
    let mut stream = cache.open(node, D::VARIANT);
    tracing::info!(proxy = stream.proxy_id(), variant = ?D::VARIANT, "stream opened");
    stream.handle(|session| D::handle(session, first));

    let result = loop {
        if send_all::<D>(&mut stream, responses).await.is_err() {
            break Ok(());
        }
        tokio::select! {
            () = stream.woken() => {
                if let Some(type_) = stream.overdue(answer_limit) {
                    tracing::warn!(proxy = stream.proxy_id(), %type_, limit = ?answer_limit, "a response is not answered");
                    break Err(overdue(type_, answer_limit));
                }
            }
            () = stream.life_due() => {}
            request = requests.next() => match request {
                Ok(Some(mut request)) => match restrict(&mut request) {
                    Ok(()) => stream.handle(|session| D::handle(session, request)),
                    Err(status) => break Err(status),
                },
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            },
        }
    };
    tracing::info!(proxy = stream.proxy_id(), variant = ?D::VARIANT, "stream closed");
    result
}

fn overdue(type_: ResourceType, limit: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the last response with {} was not answered within {} s: acknowledge or refuse it, and open the stream again",
        type_.type_url(),
        limit.as_secs()
    ))
}

/// Sends what is due; an error means that the client is gone.
async fn send_all<D: Dialect>(stream: &mut ProxyStream, responses: &Responses) -> Result<(), ()> {
    while let Some(outgoing) = stream.next() {
        let encoding = Box::new(outgoing.encode(D::VARIANT, CONTROL_PLANE));
        responses.send(Ok(encoding)).await.map_err(|_| ())?;
    }
    Ok(())
}

// === impl Delta ===

impl Dialect for Delta {
    const VARIANT: Variant = Variant::Delta;
    type Request = DeltaDiscoveryRequest;

    fn node(request: &mut DeltaDiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn type_url(request: &mut DeltaDiscoveryRequest) -> &mut String {
        &mut request.type_url
    }

    fn handle(session: &mut ServerSession, request: DeltaDiscoveryRequest) -> Handled {
        session.delta_request(request)
    }
}

// === impl Sotw ===

impl Dialect for Sotw {
    const VARIANT: Variant = Variant::Sotw;
    type Request = DiscoveryRequest;

    fn node(request: &mut DiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn type_url(request: &mut DiscoveryRequest) -> &mut String {
        &mut request.type_url
    }

    fn handle(session: &mut ServerSession, request: DiscoveryRequest) -> Handled {
        session.sotw_request(request)
    }
}
