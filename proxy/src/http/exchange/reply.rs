//! Answers of our own.

use std::{borrow::Cow, sync::Arc};

use super::{Exchange, Outcome};
use crate::{
    http::{
        body::{Sink, Source, Trailers},
        h1::framing::BodyLength,
        head::{Method, Version},
    },
    route::Route,
};

/// An answer that no upstream gave.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Envoy's response flag.
    pub(crate) flags: &'static str,
    pub(crate) body: Cow<'static, [u8]>,
    pub(crate) location: Option<Vec<u8>>,
    /// The route whose changes to responses apply.
    pub(crate) mutations: Option<Arc<Route>>,
}

impl Reply {
    pub(crate) fn new(status: u16, flags: &'static str, body: &'static str) -> Self {
        Self { status, flags, body: Cow::Borrowed(body.as_bytes()), location: None, mutations: None }
    }
}

impl Exchange<'_> {
    /// Sends `reply`. What is left of the request is thrown away if it is there, else the connection closes.
    pub(super) async fn reply(
        &mut self,
        reply: Reply,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) -> Outcome {
        self.record.flags = reply.flags;
        // A client that waits for "100 Continue" has not sent its body: what comes next could be either.
        if self.expects_continue.get() || !source.discard_buffered() {
            self.close = true;
        }
        self.response.reset(b"");
        self.response.version = Version::Http11;
        let grpc = self.request.is_grpc();
        let reason = self.response.intern(b"");
        self.response.set_status(if grpc { 200 } else { reply.status }, reason);
        let mut length = BodyLength::Empty;
        if grpc {
            // A gRPC client reads its errors from these (response "trailers only").
            self.response.append(b"content-type", b"application/grpc");
            self.response.append(b"grpc-status", grpc_status(reply.status).to_string().as_bytes());
            self.response.append(b"grpc-message", &reply.body);
        } else if !reply.body.is_empty() {
            self.response.append(b"content-type", b"text/plain");
            length = BodyLength::Exact(reply.body.len() as u64);
        }
        if let Some(location) = &reply.location {
            self.response.append(b"location", location);
        }
        if let Some(route) = &reply.mutations {
            route.response.apply(self.response);
        }
        if let (Method::Head, BodyLength::Exact(declared)) = (self.method, length) {
            self.response.append(b"content-length", declared.to_string().as_bytes());
            length = BodyLength::Empty;
        }
        self.start_response(sink, length);
        let body: &[u8] = if length == BodyLength::Empty { b"" } else { &reply.body };
        let sent = async {
            if !body.is_empty() {
                sink.push(body).await?;
            }
            sink.finish(Trailers::new()).await?;
            sink.flush().await
        };
        if sent.await.is_ok() { Outcome::Complete } else { Outcome::Broken }
    }
}

/// The gRPC status for an HTTP one (gRPC over HTTP2, "HTTP to gRPC status code mapping").
fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
