//! Answers of our own.

use std::{borrow::Cow, sync::Arc};

use super::{Exchange, Outcome, Reason};
use crate::{
    http::{
        body::{Sink, Source, Trailers},
        h1::framing::BodyLength,
        head::{Method, Version},
    },
    route::{
        Route,
        mutate::{Mutation, Scene},
    },
};

/// An answer that no upstream gave.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) reason: Reason,
    pub(crate) body: Cow<'static, [u8]>,
    /// Instead of what the status is in gRPC.
    pub(crate) grpc_status: Option<u8>,
    /// Instead of the reason's.
    pub(crate) details: Option<Arc<str>>,
    /// Fields of its own.
    pub(crate) fields: Vec<(&'static [u8], Vec<u8>)>,
    /// Changes that the one who answers wants.
    pub(crate) changes: Option<Arc<Mutation>>,
    /// The route whose changes to responses apply.
    pub(crate) mutations: Option<Arc<Route>>,
}

impl Reply {
    pub(crate) fn new(status: u16, reason: Reason, body: &'static str) -> Self {
        Self {
            status,
            reason,
            body: Cow::Borrowed(body.as_bytes()),
            grpc_status: None,
            details: None,
            fields: Vec::new(),
            changes: None,
            mutations: None,
        }
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
        self.record.reason = reply.reason;
        self.record.details = reply.details;
        // A client that waits for "100 Continue" has not sent its body: what comes next could be either.
        if self.expects_continue.get() || !source.discard_buffered() {
            self.close = true;
        }
        self.response.reset(b"");
        self.response.version = Version::Http11;
        // A page cannot read trailers: the filter that speaks for it makes of our answer what it can.
        let grpc = self.request.is_grpc() && self.record.grpc_web.is_none();
        let reason = self.response.intern(b"");
        self.response.set_status(if grpc { 200 } else { reply.status }, reason);
        let mut length = BodyLength::Empty;
        if grpc {
            let status = reply.grpc_status.unwrap_or_else(|| grpc_status(reply.status));
            // A gRPC client reads its errors from these (response "trailers only").
            self.response.append(b"content-type", b"application/grpc");
            self.response.append(b"grpc-status", status.to_string().as_bytes());
            if !reply.body.is_empty() {
                self.response.append(b"grpc-message", &grpc_message(&reply.body));
            }
        } else if !reply.body.is_empty() {
            self.response.append(b"content-type", b"text/plain");
            length = BodyLength::Exact(reply.body.len() as u64);
        }
        // To outsiders how we are wired is no business of theirs; a peer of the mesh wants to know which hop said no.
        if reply.reason.is_error() && self.cx.is_mesh_peer() {
            self.response.append(b"x-weft-error", reply.reason.details().as_bytes());
        }
        if reply.reason == Reason::UpstreamOverflow && !self.cx.manager.suppress_envoy_headers {
            // So that whoever asked knows that to ask again helps nobody.
            self.response.append(b"x-envoy-overloaded", b"true");
        }
        for (name, value) in &reply.fields {
            self.response.append(name, value);
        }
        let scene = Scene::of_response(self.cx, &self.record, self.request);
        if let Some(changes) = &reply.changes {
            changes.apply(self.response, &scene);
        }
        if let Some(route) = &reply.mutations {
            route.response.apply(self.response, &scene);
        }
        let is_sent = self.method != Method::Head;
        let (mut body, mut trailers) = (reply.body, Trailers::new());
        let changes = self.filter_response(if is_sent { length } else { BodyLength::Empty }, Some(&body));
        if !changes.is_empty() && length != BodyLength::Empty && is_sent {
            // What cannot be changed is left out: it is our own text, of which the status says as much.
            body = changes.whole(&body, &mut trailers).unwrap_or_default().into();
            length = BodyLength::Exact(body.len() as u64);
        }
        if let (Method::Head, BodyLength::Exact(declared)) = (self.method, length) {
            self.response.append(b"content-length", declared.to_string().as_bytes());
            length = BodyLength::Empty;
        }
        self.start_response(sink, length);
        let body: &[u8] = if length == BodyLength::Empty { b"" } else { &body };
        let sent = async {
            if !body.is_empty() {
                sink.push(body).await?;
            }
            sink.finish(trailers).await?;
            sink.flush().await
        };
        if sent.await.is_ok() { Outcome::Complete } else { Outcome::Broken }
    }
}

/// Text as gRPC has it in a field (gRPC over HTTP2, "Percent-Encoded").
fn grpc_message(text: &[u8]) -> Cow<'_, [u8]> {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'%';
    if text.iter().all(plain) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.iter().fold(Vec::new(), |mut encoded, byte| {
        if plain(byte) {
            encoded.push(*byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
        encoded
    }))
}

/// The gRPC status for an HTTP one (gRPC over HTTP2, "HTTP to gRPC status code mapping").
pub(crate) fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
