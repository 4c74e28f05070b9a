//! `buffer`: sends requests on when all of their body is there, and refuses those with too much of it.
//!
//! Source: Envoy's `envoy.extensions.filters.http.buffer.v3`. What was waited for has a length, and can be sent again.

use std::sync::Arc;

use weft_xds::{
    any,
    pb::envoy::extensions::filters::http::buffer::v3::{
        Buffer as Proto, BufferPerRoute, buffer_per_route::Override,
    },
};

use super::{Filter, Kind, Request, Step};
use crate::{
    config::{ConfigError, Path, value},
    http::{
        body::SourceError,
        change::{Held, RequestBody},
        exchange::{Context, Reason, Reply},
    },
};

pub(super) const KIND: Kind = Kind {
    message: "envoy.extensions.filters.http.buffer.v3.Buffer",
    compile: |path, config, _| {
        let message = value::unpacked(path, any::unpack::<Proto>(config))?;
        Ok(Box::new(Buffer { limit: limit(path, &message)? }))
    },
    of_route: Some(("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", |path, config, _| {
        let message = value::unpacked(path, any::unpack::<BufferPerRoute>(config))?;
        Ok(Arc::new(of_route(path, &message)?))
    })),
};

/// The filter.
#[derive(Debug)]
struct Buffer {
    /// Most bytes.
    limit: usize,
}

/// What a route says: another limit, or to wait for nothing.
#[derive(Debug)]
struct OfRoute(Option<usize>);

// === impl Buffer ===

impl Filter for Buffer {
    fn on_request<'r>(&'r self, request: Request<'r>) -> Step<'r> {
        let own = request.own.most_specific::<OfRoute>();
        let Some(limit) = own.map_or(Some(self.limit), |own| own.0) else { return Step::Continue };
        match request.body.whole() {
            Some(body) if body.len() <= limit => return Step::Continue,
            Some(_) => return Step::Reply(Box::new(too_long())),
            None => {}
        }
        Step::Wait(Box::pin(async move {
            match hold(request.body, limit, request.cx).await? {
                Held::All => Ok(()),
                Held::TooLong => Err(Box::new(too_long())),
            }
        }))
    }
}

/// Waits for a body of at most `limit` bytes, as long as the connection manager's request_timeout allows.
pub(super) async fn hold(body: &mut dyn RequestBody, limit: usize, cx: &Context) -> Result<Held, Box<Reply>> {
    let held = body.hold(limit);
    let held = match cx.manager.timeouts.request {
        Some(patience) => tokio::time::timeout(patience, held).await,
        None => Ok(held.await),
    };
    match held {
        Ok(Ok(held)) => Ok(held),
        Ok(Err(error)) => Err(Box::new(broken(&error))),
        Err(_) => Err(Box::new(Reply::new(408, Reason::RequestTimeout, "request timeout"))),
    }
}

pub(super) fn too_long() -> Reply {
    Reply::new(413, Reason::RequestPayloadTooLarge, "Payload Too Large")
}

/// The answer to a body that does not come as it should.
pub(super) fn broken(error: &SourceError) -> Reply {
    match error {
        SourceError::Closed => Reply::new(400, Reason::DownstreamDisconnect, ""),
        SourceError::Timeout => Reply::new(408, Reason::StreamIdleTimeout, "stream timeout"),
        SourceError::Malformed => Reply::new(400, Reason::Http1Codec, ""),
    }
}

// === from the configuration ===

fn limit(path: &Path, message: &Proto) -> Result<usize, ConfigError> {
    let path = path.field("max_request_bytes");
    match message.max_request_bytes.as_ref().ok_or_else(|| path.missing())?.value {
        0 => Err(path.error("must be at least 1")),
        limit => Ok(limit as usize),
    }
}

fn of_route(path: &Path, message: &BufferPerRoute) -> Result<OfRoute, ConfigError> {
    match message.r#override.as_ref().ok_or_else(|| path.missing())? {
        Override::Disabled(true) => Ok(OfRoute(None)),
        Override::Disabled(false) => Err(path.field("disabled").error("must be true")),
        Override::Buffer(buffer) => Ok(OfRoute(Some(limit(&path.field("buffer"), buffer)?))),
    }
}
