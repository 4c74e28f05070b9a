//! One request and its response: route, pick, forward, account.
//!
//! # Guarantees
//! * Every exchange is counted and logged exactly once, when it is dropped, however it ends.
//! * Nothing of a response reaches the client before the last decision to retry.
//! * An upstream connection returns to its pool only after a complete, well-formed exchange with nothing left over.

mod account;
mod answer;
mod attempt;
mod attempt_h1;
mod attempt_h2;
mod choose;
mod client_cert;
mod connect;
mod ending;
mod failure;
mod filters;
mod hedge;
mod hedge_try;
mod limits;
mod mirror;
mod plan;
mod reason;
mod redirecting;
mod refusal;
mod reply;
mod retrying;
mod rewrite;
mod upload;

use std::{borrow::Cow, cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::time::Instant;

pub(crate) use account::Attempt;
pub(crate) use attempt_h1::MAX_INTERIM;
pub(crate) use ending::{Ended, Ending, Endings};
pub(crate) use plan::is_internal;
pub(crate) use reason::Reason;
use redirecting::{Followed, Next};
pub(crate) use reply::{Reply, grpc_status};

use crate::{
    cluster::endpoint::Endpoint,
    filter::{ChainRef, Later, Session, grpc_web},
    http::{
        body::{Sink, Source},
        h1::framing::BodyLength,
        h2::convert,
        head::{Head, Method, Span, Version},
        manager::HttpManager,
        metadata::Metadata,
    },
    overload::Action,
    pool::Connection,
    route::Route,
    tls::Identity,
    worker::{Worker, timer::Timer},
};

/// What stays the same for all exchanges of a connection.
pub(crate) struct Context {
    pub(crate) worker: Rc<Worker>,
    pub(crate) manager: Arc<HttpManager>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// The number of the connection.
    pub(crate) id: u64,
    /// What few connections have.
    pub(crate) beside: Option<Box<Beside>>,
    /// Who the client is, if it came over TLS.
    pub(crate) tls: Option<Rc<Identity>>,
}

/// What is known of a connection beside its ends.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// Where the client wanted to go, if the connection was redirected to us.
    pub(crate) original: Option<SocketAddr>,
    /// Who is connected, if that is not the client but a proxy that spoke for it.
    pub(crate) direct: Option<SocketAddr>,
    /// Of the ClientHello, if it was looked at.
    pub(crate) server_name: Option<Box<str>>,
}

/// One request on its way.
pub(crate) struct Exchange<'a> {
    pub(crate) cx: &'a Context,
    pub(crate) timer: &'a Timer,
    pub(crate) request: &'a mut Head,
    pub(crate) response: &'a mut Head,
    pub(crate) started: Instant,
    /// When the response was complete, if that is known before the drop: reading the clock is not free.
    ended: Option<Instant>,
    /// Whether the client's connection ends after this exchange.
    pub(crate) close: bool,
    /// Cleared when a final response begins: "100 Continue" must not follow it.
    pub(crate) expects_continue: &'a Cell<bool>,
    /// The protocol that the client asks to change to, if it may.
    upgrade: Option<Vec<u8>>,
    /// Whether the client understands trailers (`te: trailers`).
    wants_trailers: bool,
    /// The redirects that were followed for it, if any.
    followed: Option<Box<Followed>>,
    /// Which of the weighted clusters was drawn.
    weighted: usize,
    /// The host that the route's rewrite made for every attempt.
    host: Option<Span>,
    /// The filters that it passes.
    filters: ChainRef<'a>,
    /// How many filters saw the request; `None` before it came to the first.
    seen: Option<usize>,
    version: Version,
    method: Method,
    record: Record,
}

/// What is known for accounting.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) started: Option<Instant>,
    /// 0 before there is a response.
    pub(crate) status: u16,
    pub(crate) reason: Reason,
    /// Instead of the reason's.
    pub(crate) details: Option<Arc<str>>,
    /// Whether a filter held the request back on purpose (Envoy's DI).
    pub(crate) delayed: bool,
    /// Whether it is one of those that only ask whether we are well.
    pub(crate) health_check: bool,
    /// What the client accepts as `accept-encoding`, if a compressor took that out of the request, and which.
    pub(crate) accepted: Option<Box<(usize, Vec<u8>)>>,
    /// The status of gRPC, if it came in trailers.
    pub(crate) grpc_trailer: Option<u32>,
    /// Whether the client was sent all of the response.
    pub(crate) complete: bool,
    /// Filters that want to know how it ends.
    pub(crate) endings: Endings,
    /// What filters say about it.
    pub(crate) metadata: Metadata,
    /// Whether it is a gRPC call that a page made, and how that wants its answer.
    pub(crate) grpc_web: Option<grpc_web::Call>,
    /// Whether the last failure would have been retried once more (Envoy's URX).
    pub(crate) retries_exhausted: bool,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) upstream: Option<Arc<Endpoint>>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) attempts: u32,
    /// Where the client belongs, if it is told.
    pub(crate) session: Option<Box<Session>>,
    /// Milliseconds until the upstream's head came.
    pub(crate) upstream_millis: Option<u64>,
    /// What filters will do to the response.
    pub(crate) later: Later,
    /// Whether a filter found out that there is a route by now.
    pub(crate) look_again: bool,
}

/// How an exchange ended.
pub(crate) enum Outcome {
    /// The response is complete; the connection may be used again unless `close` was decided.
    Complete,
    /// The connection became a tunnel to this upstream.
    Tunnel(Box<Connection>),
    /// The response could not be completed: the client must see the connection break.
    Broken,
}

// === impl Context ===

impl Context {
    /// Where the client wanted to go, if the connection was redirected to us.
    pub(crate) fn original(&self) -> Option<SocketAddr> {
        self.beside.as_ref()?.original
    }

    /// Who is connected: the client, or a proxy that spoke for it.
    pub(crate) fn direct(&self) -> SocketAddr {
        self.beside.as_ref().and_then(|beside| beside.direct).unwrap_or(self.peer)
    }

    /// Of the ClientHello, if it was looked at.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.beside.as_ref()?.server_name.as_deref()
    }

    /// Whether the client has shown a certificate, which then was verified.
    pub(crate) fn is_mesh_peer(&self) -> bool {
        self.tls.as_ref().is_some_and(|identity| identity.peer.is_some())
    }
}

// === impl Record ===

impl Record {
    /// Envoy's response flags, separated by commas; empty if there is none.
    pub(crate) fn flags(&self) -> Cow<'static, str> {
        let flags = self.each_flag().into_iter().filter(|flag| !flag.is_empty());
        flags.fold(Cow::Borrowed(""), |all, flag| {
            if all.is_empty() { Cow::Borrowed(flag) } else { Cow::Owned(format!("{all},{flag}")) }
        })
    }

    /// The flags one by one; empty texts are none.
    pub(crate) fn each_flag(&self) -> [&'static str; 3] {
        let delayed = if self.delayed { "DI" } else { "" };
        let exhausted = if self.retries_exhausted { "URX" } else { "" };
        [delayed, self.reason.flag(), exhausted]
    }

    /// Envoy's response code details.
    pub(crate) fn details(&self) -> &str {
        self.details.as_deref().unwrap_or(self.reason.details())
    }
}

// === impl Exchange ===

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        cx: &'a Context,
        timer: &'a Timer,
        request: &'a mut Head,
        response: &'a mut Head,
        expects_continue: &'a Cell<bool>,
    ) -> Self {
        let (version, method) = (request.version, request.method);
        let cells = cx.manager.stats.at(cx.worker.index);
        cells.rq_total.add(1);
        if version == Version::Http2 { &cells.rq_http2_total } else { &cells.rq_http1_total }.add(1);
        let started = Instant::now();
        Self {
            cx,
            timer,
            request,
            response,
            started,
            ended: None,
            close: false,
            expects_continue,
            upgrade: None,
            wants_trailers: false,
            followed: None,
            weighted: 0,
            host: None,
            filters: cx.manager.filters.get(),
            seen: None,
            version,
            method,
            record: Record { started: Some(started), ..Record::default() },
        }
    }

    /// Handles the request whose head is read and whose body is `source`.
    pub(crate) async fn run(
        &mut self,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
        length: BodyLength,
    ) -> Outcome {
        let mut length = length;
        let mut planned = self.plan();
        let outcome = loop {
            let decided = match planned {
                Ok(()) if self.filters.is_empty() => self.decide(length),
                Ok(()) => match self.filter_request(source).await {
                    Ok(()) => {
                        length = source.length(length);
                        self.decide(length)
                    }
                    // From the first filter on, whose words about the request without a route are void.
                    Err(_) if std::mem::take(&mut self.record.look_again) => {
                        self.tell_endings(0);
                        self.record.metadata = Metadata::default();
                        self.record.later = Later::default();
                        self.find_route();
                        continue;
                    }
                    Err(reply) => Err(*reply),
                },
                Err(reply) => Err(reply),
            };
            let outcome = match decided {
                Ok(route) => self.forward(&route, source, sink, length).await,
                Err(reply) => self.reply(reply, source, sink).await,
            };
            match self.take_redirect() {
                None => break outcome,
                Some(Next::AsItIs) => {}
                Some(Next::WithoutBody) => {
                    source.discard_buffered();
                    length = BodyLength::Empty;
                }
            }
            // Each round passes all filters: what they wait for and said was about the one that is over.
            self.tell_endings(self.response.status);
            self.record.metadata = Metadata::default();
            planned = Ok(());
        };
        self.record.bytes_received = source.received();
        self.record.bytes_sent = sink.sent();
        self.record.complete = matches!(outcome, Outcome::Complete);
        outcome
    }

    /// Answers a request that could not even be read.
    pub(crate) async fn refuse(
        &mut self,
        status: u16,
        reason: Reason,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) {
        self.close = true;
        let _ = self.reply(Reply::new(status, reason, ""), source, sink).await;
    }

    /// Why it did not go as it should, as far as is known.
    pub(crate) fn reason(&self) -> Reason {
        self.record.reason
    }

    /// Finishes the response head with what we say ourselves, and puts it into the sink.
    fn start_response(&mut self, sink: &mut Sink<'_>, mut length: BodyLength) {
        self.expects_continue.set(false);
        self.record.status = self.response.status;
        self.add_response_fields();
        let worker = &self.cx.worker;
        if self.timer.is_draining() {
            self.close = true;
        } else if !self.close && worker.shared.overload.wants(Action::DisableKeepalive, &worker.random) {
            self.cx.manager.stats.at(worker.index).cx_overload_disable_keepalive.add(1);
            self.close = true;
        }
        match sink {
            Sink::H1(writer) => {
                if self.version == Version::Http10
                    && matches!(length, BodyLength::Chunked | BodyLength::UntilClose)
                {
                    length = BodyLength::UntilClose;
                    self.close = true;
                } else if length == BodyLength::UntilClose {
                    length = BodyLength::Chunked;
                }
                writer.response(self.response, length, (self.version, self.method), self.close);
            }
            Sink::H2(sink) => {
                let length = match length {
                    BodyLength::Exact(length) => Some(length),
                    _ => None,
                };
                match convert::write_response(self.response, length) {
                    Some(response) => sink.head(response),
                    // Field values that HTTP/1 let pass and HTTP/2 does not: the answer cannot be said.
                    None => sink.head(bad_gateway()),
                }
            }
        }
    }
}

fn bad_gateway() -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    response
}
