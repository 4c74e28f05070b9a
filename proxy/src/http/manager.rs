//! A compiled HTTP connection manager: everything that is decided before a request comes.

use std::{sync::Arc, time::Duration};

use crate::{
    access_log::AccessLog,
    cluster::Http2Settings,
    http::path::PathRules,
    metrics::{HttpCells, PerWorker},
    route::RouteSlot,
};

/// The settings of one manager; defaults are those of HARDENING where Envoy's are longer.
#[derive(Debug)]
pub(crate) struct HttpManager {
    pub(crate) stats: Arc<PerWorker<HttpCells>>,
    pub(crate) codec: Codec,
    pub(crate) routes: Arc<RouteSlot>,
    pub(crate) server_name: Vec<u8>,
    pub(crate) server_header: ServerHeader,
    pub(crate) forwarded: Forwarded,
    pub(crate) request_id: RequestId,
    /// Protocols that may be upgraded to, lower case.
    pub(crate) upgrades: Vec<String>,
    pub(crate) path_rules: PathRules,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) http2: Http2Settings,
    pub(crate) access_logs: Vec<Arc<AccessLog>>,
    /// Whether fields of Envoy's own (`x-envoy-…`) stay away.
    pub(crate) suppress_envoy_headers: bool,
}

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Told from the first bytes.
    Auto,
    Http1,
    Http2,
}

/// What is done about the `server` field of responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerHeader {
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

/// What upstreams are told about the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forwarded {
    /// Whether the client's address is taken from the connection and added to `x-forwarded-for`.
    pub(crate) use_remote_address: bool,
    pub(crate) skip_append: bool,
}

/// How `x-request-id` is treated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestId {
    pub(crate) generate: bool,
    /// Keep what an outside client sent.
    pub(crate) preserve_external: bool,
    pub(crate) in_response: bool,
}

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) head_bytes: usize,
    pub(crate) head_fields: usize,
    pub(crate) requests_per_connection: Option<u32>,
}

/// Times; `None` is without limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// From the first byte of a head to its last.
    pub(crate) header: Option<Duration>,
    /// Between requests.
    pub(crate) idle: Option<Duration>,
    /// Longest pause of an HTTP/1 body, either way.
    pub(crate) body: Option<Duration>,
    /// Longest pause of a stream or tunnel.
    pub(crate) stream_idle: Option<Duration>,
}
