//! Unary gRPC calls.

use std::{sync::Arc, time::Duration};

use weft_xds::grpc::{FrameError, Message, frame, unframe};

use super::{Answer, Call, Failure, Keep, announce};
use crate::{
    cluster::{ClusterSlot, breaker::Priority},
    http::{
        exchange::Context,
        head::{Head, Method, Version},
    },
    proxy_protocol::Addresses,
    route::duration::write_grpc,
};

/// Largest answer where nothing is configured: what gRPC's own clients take.
const LARGEST: usize = 4 * 1024 * 1024;

/// A service as it is configured.
#[derive(Debug)]
pub(crate) struct GrpcService {
    pub(crate) cluster: Arc<ClusterSlot>,
    pub(crate) authority: Vec<u8>,
    /// For each call; `None` is for ever.
    pub(crate) timeout: Option<Duration>,
    /// Fields for every call.
    pub(crate) metadata: Vec<(Vec<u8>, Vec<u8>)>,
    /// Largest answer, if that is limited.
    pub(crate) largest: Option<usize>,
    /// Whether it is told `x-envoy-…`.
    pub(crate) envoy_fields: bool,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrpcError {
    #[error("the call failed")]
    Call(#[source] Failure),
    /// The service says that it failed.
    #[error("status {0}")]
    Status(u32),
    /// The HTTP status is not 200, or there is no gRPC status.
    #[error("HTTP status {0} without a gRPC status")]
    Http(u16),
    #[error("the answer cannot be read")]
    Message(#[source] FrameError),
}

// === impl GrpcService ===

impl GrpcService {
    /// Calls a method, `/package.Service/Method`.
    pub(crate) async fn call<Q, A>(&self, cx: &Context, method: &str, request: &Q) -> Result<A, GrpcError>
    where
        Q: Message,
        A: Message + Default,
    {
        let cluster = self.cluster.get().ok_or(GrpcError::Call(Failure::NoCluster))?;
        let head = self.head(method);
        let call = Call {
            worker: &cx.worker,
            cluster: &cluster,
            head: &head,
            body: &frame(request),
            priority: Priority::Default,
            hash: None,
            client: Addresses { source: cx.peer, destination: cx.local },
            timeout: self.timeout,
            keep: Keep::Within(self.largest.unwrap_or(LARGEST)),
        };
        Self::result(call.send().await.map_err(GrpcError::Call)?)
    }

    /// What an answer says.
    pub(super) fn result<A: Message + Default>(answer: Answer) -> Result<A, GrpcError> {
        match status(&answer) {
            Some(0) => unframe(&answer.body).map_err(GrpcError::Message),
            Some(status) => Err(GrpcError::Status(status)),
            None => Err(GrpcError::Http(answer.head.status)),
        }
    }

    pub(super) fn head(&self, method: &str) -> Head {
        let mut head = Head::default();
        head.version = Version::Http2;
        let post = head.intern(b"POST");
        head.set_method(Method::Post, post);
        let target = head.intern(method.as_bytes());
        head.set_target(target);
        let authority = head.intern(&self.authority);
        head.set_authority(authority);
        head.append(b"te", b"trailers");
        head.append(b"content-type", b"application/grpc");
        if let Some(timeout) = self.timeout {
            head.append(b"grpc-timeout", write_grpc(timeout).as_bytes());
        }
        if self.envoy_fields {
            announce(&mut head, self.timeout);
        }
        for (name, value) in &self.metadata {
            head.append(name, value);
        }
        head
    }
}

/// The status of a call: in the trailers, or in the head of an answer that is nothing else ("Trailers-Only").
fn status(answer: &Answer) -> Option<u32> {
    let trailers = answer.trailers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let head = answer.head.fields().map(|(_, name, value)| (name, value));
    let mut both = trailers.chain(head);
    let (_, status) = both.find(|(name, _)| name.eq_ignore_ascii_case(b"grpc-status"))?;
    (answer.head.status == 200).then(|| std::str::from_utf8(status).ok()?.parse().ok())?
}
