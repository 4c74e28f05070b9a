//! Serving HTTP/1 to a client: one request after the other.

use std::{cell::Cell, future::poll_fn, task::Poll, time::Duration};

use crate::{
    http::{
        body::{Sink, Source},
        exchange::{Context, Exchange, Outcome, Reason},
        h1::{
            body::BodyReader,
            framing::{self, BodyLength},
            parse::{self, ParseError},
            scan::HeadScan,
            write::Writer,
        },
        head::{Head, Known, Method, Version, tokens},
        io::{IoError, RecvBuf},
        tunnel,
    },
    net::Stream,
    worker::timer::{Deadline, Timer},
};

/// How long a client that asks again and again may pause before its connection gives memory back: making the memory anew
/// costs a microsecond. Others have shown no need for it, and they may be many: after theirs it goes back at once.
const RESTLESS: Duration = Duration::from_millis(500);
/// How much is read from a connection that must end, so that the last response is not lost to a reset.
const LINGER_BYTES: usize = 512 * 1024;

/// A client and its connection.
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) cx: Context,
    pub(crate) timer: Timer,
}

/// The state of a connection between and during requests.
struct Session<'s> {
    stream: &'s Stream,
    recv: RecvBuf,
    out: Vec<u8>,
    request: Head,
    response: Head,
    cx: &'s Context,
    timer: &'s Timer,
}

/// What is known of a client from its requests so far.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    served: u32,
    /// Whether it came back within [`RESTLESS`].
    hasty: bool,
}

/// Why a connection has nothing to do for now.
enum Pause {
    /// The client says nothing.
    Rest(Past),
    Over,
}

/// What became of waiting for a request.
enum Next {
    /// Nothing came for a while.
    Nothing,
    /// A head of this many bytes is in the buffer.
    Head(usize),
    /// The client is gone, or was idle for too long.
    Gone,
    /// What came cannot be answered but with this status.
    Refuse(u16, Reason),
}

/// Whether the connection goes on.
enum After {
    KeepAlive,
    /// The last response was written; the rest of what the client sends does not matter.
    Close,
    /// The client must see that something is missing.
    Abort,
}

/// Serves a client, of which `recv` was read already, until its connection ends.
///
/// A connection costs memory while it has something to do: buffers, heads and everything about the request in hand are
/// in a future of their own, made when bytes come and dropped when no more come, or with a hasty client none for
/// [`RESTLESS`].
pub(crate) fn serve(client: &Client, recv: RecvBuf) -> impl Future<Output = ()> {
    // Made here, so that the future does not keep room for what was read.
    let mut begun = (!recv.is_empty()).then(|| Box::pin(work(client, recv, Past::default())));
    async move {
        let mut past = Past::default();
        loop {
            let rested = client.timer.now();
            let working = match begun.take() {
                Some(working) => working,
                None if rest(client, past).await => {
                    past.hasty = past.served > 0 && client.timer.now() - rested < RESTLESS;
                    Box::pin(work(client, RecvBuf::default(), past))
                }
                None => return,
            };
            match working.await {
                Pause::Rest(so_far) => past = so_far,
                Pause::Over => return,
            }
        }
    }
}

/// Waits, with no more than a socket, for the client to send something; `false` if it was silent for too long.
fn rest(client: &Client, past: Past) -> impl Future<Output = bool> {
    let timeouts = &client.cx.manager.timeouts;
    let patience = match past {
        Past { served: 0, .. } => timeouts.header,
        // A part of the time is over.
        Past { hasty: true, .. } => timeouts.idle.map(|idle| idle.saturating_sub(RESTLESS)),
        Past { hasty: false, .. } => timeouts.idle,
    };
    client.timer.arm(Deadline::Downstream, patience);
    client.timer.set_idle(true);
    poll_fn(move |task| {
        let ready = match client.stream.poll_read_ready(task) {
            Poll::Ready(_) => true,
            Poll::Pending if client.timer.check(Deadline::Downstream, task).is_ok() => return Poll::Pending,
            Poll::Pending => false,
        };
        client.timer.set_idle(false);
        client.timer.disarm(Deadline::Downstream);
        if !ready {
            client.cx.manager.stats.at(client.cx.worker.index).cx_idle_timeout.add(1);
        }
        Poll::Ready(ready)
    })
}

/// Serves requests until the client pauses or the connection ends.
async fn work(client: &Client, recv: RecvBuf, mut past: Past) -> Pause {
    let Client { stream, cx, timer } = client;
    let (request, response) = (Head::default(), Head::default());
    let mut session = Session { stream, recv, out: Vec::new(), request, response, cx, timer };
    let after = loop {
        let length = match session.next(past.served == 0).await {
            Next::Nothing => return Pause::Rest(past),
            Next::Gone => return Pause::Over,
            Next::Refuse(status, reason) => break session.refuse(status, reason).await,
            Next::Head(length) => length,
        };
        past.served = past.served.saturating_add(1);
        let last = cx.manager.limits.requests_per_connection.is_some_and(|limit| past.served >= limit);
        match session.exchange(length, last).await {
            After::KeepAlive if session.recv.is_empty() && !past.hasty => return Pause::Rest(past),
            After::KeepAlive => session.shrink(),
            after => break after,
        }
    };
    if matches!(after, After::Close) {
        session.linger().await;
    }
    Pause::Over
}

// === impl Session ===

impl Session<'_> {
    /// Gives memory back that only the last exchange needed.
    fn shrink(&mut self) {
        self.recv.shrink();
        self.request.shrink();
        self.response.shrink();
        if self.out.capacity() > 64 * 1024 {
            self.out = Vec::new();
        }
    }

    /// Waits for the next head.
    async fn next(&mut self, first: bool) -> Next {
        let timeouts = self.cx.manager.timeouts;
        let limit = self.cx.manager.limits.head_bytes;
        let mut scan = HeadScan::default();
        let (mut begun, mut overlooked) = (!self.recv.is_empty(), false);
        let patience = if first || begun { timeouts.header } else { timeouts.idle };
        let may_rest = !begun && patience.is_none_or(|patience| patience > RESTLESS);
        self.timer.arm(Deadline::Downstream, if may_rest { Some(RESTLESS) } else { patience });
        self.timer.set_idle(!begun);
        let next = loop {
            // One empty line before a request is a slip that RFC 9112 2.2 asks to overlook.
            if self.recv.data().starts_with(b"\r\n") && overlooked {
                break Next::Refuse(400, Reason::Http1Codec);
            }
            if self.recv.data().starts_with(b"\r\n") && self.recv.data().len() > 2 {
                self.recv.consume(2);
                scan = HeadScan::default();
                overlooked = true;
                continue;
            }
            match scan.find(self.recv.data()) {
                Err(_) => break Next::Refuse(400, Reason::Http1Codec),
                Ok(Some(length)) if length > limit => break Next::Refuse(431, Reason::Http1HeadersTooLarge),
                Ok(Some(length)) => break Next::Head(length),
                Ok(None) if self.recv.data().len() >= limit => {
                    let in_first_line = memchr::memchr(b'\n', self.recv.data()).is_none();
                    let status = if in_first_line { 414 } else { 431 };
                    break Next::Refuse(status, Reason::Http1HeadersTooLarge);
                }
                Ok(None) => {}
            }
            if !begun && !self.recv.is_empty() {
                begun = true;
                self.timer.set_idle(false);
                self.timer.arm(Deadline::Downstream, timeouts.header);
            }
            match self.recv.fill(self.stream, limit, self.timer, Deadline::Downstream).await {
                Ok(0) if self.recv.is_empty() => break Next::Gone,
                Ok(0) => break Next::Refuse(400, Reason::Http1Codec),
                Ok(_) => {}
                Err(IoError::Closed) => break Next::Gone,
                Err(IoError::Timeout) if may_rest && self.recv.is_empty() && !self.timer.is_retired() => {
                    break Next::Nothing;
                }
                Err(IoError::Timeout) if self.recv.is_empty() => {
                    self.cx.manager.stats.at(self.cx.worker.index).cx_idle_timeout.add(1);
                    break Next::Gone;
                }
                Err(IoError::Timeout) => break Next::Refuse(408, Reason::RequestHeaderTimeout),
            }
        };
        self.timer.set_idle(false);
        self.timer.disarm(Deadline::Downstream);
        next
    }

    /// Handles the request whose head is the first `head_length` bytes of the buffer.
    async fn exchange(&mut self, head_length: usize, last: bool) -> After {
        let raw = &self.recv.data()[..head_length];
        let parsed = parse::request(raw, &mut self.request, self.cx.manager.limits.head_fields);
        let parsed = parsed.and_then(|()| self.may_connect());
        let framed = parsed.map(|()| framing::of_request(&self.request));
        let length = match framed {
            Ok(Ok(length)) => length,
            Ok(Err(_)) => return self.refuse(400, Reason::Http1Framing).await,
            Err(error) => return self.refuse_parse(error).await,
        };
        self.recv.consume(head_length);
        let expects = match self.expectation(length) {
            Ok(expects) => Cell::new(expects),
            Err(status) => return self.refuse(status, Reason::Expectation).await,
        };
        let close = last || !wants_keep_alive(&self.request);
        let body_timeout = self.cx.manager.timeouts.body;
        let reader = BodyReader::new(
            self.stream,
            &mut self.recv,
            length,
            self.timer,
            Deadline::Downstream,
            body_timeout,
        )
        .expecting_continue(&expects);
        let writer = Writer::new(self.stream, &mut self.out, self.timer, Deadline::Send, body_timeout);
        let (mut source, mut sink) = (Source::H1(reader), Sink::H1(writer));
        let mut exchange =
            Exchange::new(self.cx, self.timer, &mut self.request, &mut self.response, &expects);
        exchange.close = close;
        let outcome = exchange.run(&mut source, &mut sink, length).await;
        let close = exchange.close;
        match outcome {
            Outcome::Broken => After::Abort,
            // A body that was there from the start was sent from the buffer, and is in it still.
            Outcome::Complete if close || !source.discard_buffered() => After::Close,
            Outcome::Complete => After::KeepAlive,
            Outcome::Tunnel(upstream) => {
                drop((source, sink));
                let cells = self.cx.manager.stats.at(self.cx.worker.index);
                cells.cx_upgrades_total.add(1);
                let patience = self.cx.manager.timeouts.stream_idle;
                tunnel::run(self.stream, self.recv.data(), *upstream, self.timer, patience).await;
                drop(exchange);
                After::Abort
            }
        }
    }

    /// Whether the request is no CONNECT, or one that some route is for.
    fn may_connect(&self) -> Result<(), ParseError> {
        if self.request.method != Method::Connect || self.cx.manager.routes.connects() {
            return Ok(());
        }
        Err(ParseError::Connect)
    }

    /// Whether the client waits for "100 Continue"; the error is a status.
    fn expectation(&self, length: BodyLength) -> Result<bool, u16> {
        let mut expectations = self.request.all_known(Known::Expect);
        match (expectations.next(), expectations.next()) {
            (None, _) => Ok(false),
            (Some(value), None) if value.eq_ignore_ascii_case(b"100-continue") => {
                Ok(self.request.version == Version::Http11 && length != BodyLength::Empty)
            }
            (Some(_), None) => Err(417),
            (Some(_), Some(_)) => Err(400),
        }
    }

    async fn refuse_parse(&mut self, error: ParseError) -> After {
        self.refuse(error.status(), error.reason()).await
    }

    /// Answers a request that was not understood; where the next one would begin is unknown, so the connection ends.
    async fn refuse(&mut self, status: u16, reason: Reason) -> After {
        self.cx.manager.stats.at(self.cx.worker.index).cx_protocol_error.add(1);
        self.request.reset(b"");
        self.request.version = Version::Http11;
        self.request.set_method(Method::Get, crate::http::head::Span::default());
        let expects = Cell::new(false);
        let patience = self.cx.manager.timeouts.body;
        let nothing = &mut RecvBuf::default();
        let reader = BodyReader::new(
            self.stream,
            nothing,
            BodyLength::Empty,
            self.timer,
            Deadline::Downstream,
            patience,
        );
        let writer = Writer::new(self.stream, &mut self.out, self.timer, Deadline::Send, patience);
        let (mut source, mut sink) = (Source::H1(reader), Sink::H1(writer));
        let mut exchange =
            Exchange::new(self.cx, self.timer, &mut self.request, &mut self.response, &expects);
        exchange.refuse(status, reason, &mut source, &mut sink).await;
        After::Close
    }

    /// Says that nothing more will come, and reads on for a moment: closing with unread bytes would reset the connection
    /// and could take the response with it.
    async fn linger(&mut self) {
        let Some(patience) = self.cx.manager.timeouts.delayed_close else { return };
        if self.stream.end().is_err() {
            return;
        }
        self.timer.arm(Deadline::Downstream, Some(patience));
        let mut total = 0;
        while total < LINGER_BYTES {
            let pending = self.recv.data().len();
            self.recv.consume(pending);
            match self.recv.fill(self.stream, 16 * 1024, self.timer, Deadline::Downstream).await {
                Ok(0) | Err(_) => return,
                Ok(count) => total += count,
            }
        }
    }
}

fn wants_keep_alive(head: &Head) -> bool {
    let says = |word: &[u8]| {
        head.all_known(Known::Connection)
            .chain(head.all_known(Known::ProxyConnection))
            .flat_map(tokens)
            .any(|token| token.eq_ignore_ascii_case(word))
    };
    match head.version {
        Version::Http10 => says(b"keep-alive") && !says(b"close"),
        Version::Http11 | Version::Http2 => !says(b"close"),
    }
}
