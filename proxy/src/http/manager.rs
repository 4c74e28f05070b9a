//! A compiled HTTP connection manager: everything that is decided before a request comes.

use std::{sync::Arc, time::Duration};

use crate::{
    access_log::AccessLog,
    filter::Filters,
    http::{h2::Http2Settings, path::PathRules},
    metrics::{HttpCells, PerWorker},
    route::scopes::Routes,
};

/// The settings of one manager; defaults are those of HARDENING where Envoy's are longer.
#[derive(Debug)]
pub(crate) struct HttpManager {
    pub(crate) stats: Arc<PerWorker<HttpCells>>,
    pub(crate) codec: Codec,
    pub(crate) routes: Routes,
    pub(crate) filters: Filters,
    pub(crate) server_name: Vec<u8>,
    pub(crate) server_header: ServerHeader,
    pub(crate) forwarded: Forwarded,
    pub(crate) client_cert: ClientCert,
    pub(crate) request_id: RequestId,
    /// Protocols that may be upgraded to, lower case.
    pub(crate) upgrades: Vec<String>,
    pub(crate) path_rules: PathRules,
    pub(crate) underscores: Underscores,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) http2: Http2Settings,
    pub(crate) access_logs: Vec<Arc<AccessLog>>,
    /// Whether fields of Envoy's own (`x-envoy-…`) stay away.
    pub(crate) suppress_envoy_headers: bool,
}

/// Counts a client's connection to a manager while it lives, however it ends.
pub(crate) struct CountedConnection {
    stats: Arc<PerWorker<HttpCells>>,
    worker: usize,
}

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Told from the first bytes.
    Auto,
    Http1,
    Http2,
}

/// What is done about fields with an underscore in their name, which some upstreams take for a hyphen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Underscores {
    Allow,
    Reject,
    Drop,
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

/// What upstreams are told of the client's certificate, in `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClientCert {
    pub(crate) forward: ForwardClientCert,
    pub(crate) subject: bool,
    pub(crate) certificate: bool,
    pub(crate) chain: bool,
    pub(crate) dns: bool,
    pub(crate) uri: bool,
}

/// What becomes of the field that the client sent, and whether we add to it. All but `Sanitize` and `AlwaysForwardOnly`
/// trust only clients that showed a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ForwardClientCert {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
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
    /// From a request's head to its end.
    pub(crate) request: Option<Duration>,
    /// From a request's head to the end of its response, where the route says nothing else.
    pub(crate) stream_max: Option<Duration>,
    /// Longest pause of an HTTP/1 body, either way.
    pub(crate) body: Option<Duration>,
    /// Longest pause of a stream or tunnel.
    pub(crate) stream_idle: Option<Duration>,
    /// How long a connection that must end is still read from.
    pub(crate) delayed_close: Option<Duration>,
}

// === impl CountedConnection ===

impl CountedConnection {
    pub(crate) fn new(manager: &HttpManager, worker: usize) -> Self {
        let stats = Arc::clone(&manager.stats);
        stats.at(worker).cx_total.add(1);
        Self { stats, worker }
    }

    pub(crate) fn cells(&self) -> &HttpCells {
        self.stats.at(self.worker)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.cells().cx_destroy.add(1);
    }
}
