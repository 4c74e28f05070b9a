//! One request and its response: route, pick, forward, account.
//!
//! # Guarantees
//! * Every exchange is counted and logged exactly once, when it is dropped, however it ends.
//! * Nothing of a response reaches the client before the last decision to retry.
//! * An upstream connection returns to its pool only after a complete, well-formed exchange with nothing left over.

mod account;
mod attempt;
mod attempt_h1;
mod attempt_h2;
mod plan;
mod reply;

use std::{cell::Cell, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::time::Instant;

pub(crate) use account::flags;
pub(crate) use reply::Reply;

use crate::{
    cluster::endpoint::Endpoint,
    http::{
        body::{Sink, Source},
        h1::framing::BodyLength,
        h2::convert,
        head::{Head, Method, Version},
        manager::HttpManager,
    },
    pool::Connection,
    route::Route,
    worker::{Worker, timer::Timer},
};

/// What stays the same for all exchanges of a connection.
pub(crate) struct Context {
    pub(crate) worker: Rc<Worker>,
    pub(crate) manager: Arc<HttpManager>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Where the client wanted to go, if the connection was redirected to us.
    pub(crate) original: Option<SocketAddr>,
}

/// One request on its way.
pub(crate) struct Exchange<'a> {
    pub(crate) cx: &'a Context,
    pub(crate) timer: &'a Timer,
    pub(crate) request: &'a mut Head,
    pub(crate) response: &'a mut Head,
    pub(crate) started: Instant,
    /// Whether the client's connection ends after this exchange.
    pub(crate) close: bool,
    /// Cleared when a final response begins: "100 Continue" must not follow it.
    pub(crate) expects_continue: &'a Cell<bool>,
    /// The protocol that the client asks to change to, if it may.
    upgrade: Option<Vec<u8>>,
    /// Whether the client understands trailers (`te: trailers`).
    wants_trailers: bool,
    version: Version,
    method: Method,
    record: Record,
}

/// What is known for accounting.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// 0 before there is a response.
    pub(crate) status: u16,
    pub(crate) flags: &'static str,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) cluster: Option<Arc<str>>,
    pub(crate) upstream: Option<Arc<Endpoint>>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) attempts: u32,
    /// Milliseconds until the upstream's head came.
    pub(crate) upstream_millis: Option<u64>,
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
        Self {
            cx,
            timer,
            request,
            response,
            started: Instant::now(),
            close: false,
            expects_continue,
            upgrade: None,
            wants_trailers: false,
            version,
            method,
            record: Record::default(),
        }
    }

    /// Handles the request whose head is read and whose body is `source`.
    pub(crate) async fn run(
        &mut self,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
        length: BodyLength,
    ) -> Outcome {
        let outcome = match self.plan(length) {
            Ok(route) => self.forward(&route, source, sink, length).await,
            Err(reply) => self.reply(reply, source, sink).await,
        };
        self.record.bytes_received = source.received();
        self.record.bytes_sent = sink.sent();
        outcome
    }

    /// Answers a request that could not even be read.
    pub(crate) async fn refuse(
        &mut self,
        status: u16,
        flags: &'static str,
        source: &mut Source<'_>,
        sink: &mut Sink<'_>,
    ) {
        self.close = true;
        let _ = self.reply(Reply::new(status, flags, ""), source, sink).await;
    }

    /// Finishes the response head with what we say ourselves, and puts it into the sink.
    fn start_response(&mut self, sink: &mut Sink<'_>, mut length: BodyLength) {
        self.expects_continue.set(false);
        self.record.status = self.response.status;
        self.add_response_fields();
        if self.timer.is_draining() {
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
