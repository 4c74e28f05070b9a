//! Serving HTTP/1 to a client: one request after the other.

use std::{cell::Cell, time::Duration};

use tokio::net::TcpStream;

use crate::{
    http::{
        body::{Sink, Source},
        exchange::{Context, Exchange, Outcome, flags},
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
    worker::timer::{Deadline, Timer},
};

/// How long a connection that must end is still read from, so that the last response is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How much is read then.
const LINGER_BYTES: usize = 512 * 1024;

/// The state of a connection between and during requests.
struct Session<'s> {
    stream: &'s TcpStream,
    recv: RecvBuf,
    out: Vec<u8>,
    request: Head,
    response: Head,
    cx: &'s Context,
    timer: &'s Timer,
}

/// What became of waiting for a request.
enum Next {
    /// A head of this many bytes is in the buffer.
    Head(usize),
    /// The client is gone, or was idle for too long.
    Gone,
    /// What came cannot be answered but with this status.
    Refuse(u16, &'static str),
}

/// Whether the connection goes on.
enum After {
    KeepAlive,
    /// The last response was written; the rest of what the client sends does not matter.
    Close,
    /// The client must see that something is missing.
    Abort,
}

/// Serves `stream`, of which `recv` was read already, until it ends.
pub(crate) async fn serve(stream: TcpStream, recv: RecvBuf, cx: &Context, timer: &Timer) {
    let mut session = Session {
        stream: &stream,
        recv,
        out: Vec::new(),
        request: Head::default(),
        response: Head::default(),
        cx,
        timer,
    };
    let mut served: u32 = 0;
    let after = loop {
        let next = session.next(served == 0).await;
        served = served.saturating_add(1);
        let last = cx.manager.limits.requests_per_connection.is_some_and(|limit| served >= limit);
        match next {
            Next::Gone => break After::Abort,
            Next::Refuse(status, flags) => break session.refuse(status, flags).await,
            Next::Head(length) => match session.exchange(length, last).await {
                After::KeepAlive => session.shrink(),
                after => break after,
            },
        }
    };
    if matches!(after, After::Close) {
        session.linger().await;
    }
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
        let mut begun = !self.recv.is_empty();
        self.timer.arm(Deadline::Downstream, if first || begun { timeouts.header } else { timeouts.idle });
        self.timer.set_idle(!begun);
        let next = loop {
            // An empty line before a request is a slip that RFC 9112 2.2 asks to overlook.
            if self.recv.data().starts_with(b"\r\n") && self.recv.data().len() > 2 {
                self.recv.consume(2);
                scan = HeadScan::default();
                if self.recv.data().starts_with(b"\r\n") {
                    break Next::Refuse(400, flags::DOWNSTREAM_PROTOCOL);
                }
            }
            match scan.find(self.recv.data()) {
                Err(_) => break Next::Refuse(400, flags::DOWNSTREAM_PROTOCOL),
                Ok(Some(length)) if length > limit => break Next::Refuse(431, flags::DOWNSTREAM_PROTOCOL),
                Ok(Some(length)) => break Next::Head(length),
                Ok(None) if self.recv.data().len() >= limit => {
                    let in_first_line = memchr::memchr(b'\n', self.recv.data()).is_none();
                    break Next::Refuse(if in_first_line { 414 } else { 431 }, flags::DOWNSTREAM_PROTOCOL);
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
                Ok(0) => break Next::Refuse(400, flags::DOWNSTREAM_PROTOCOL),
                Ok(_) => {}
                Err(IoError::Closed) => break Next::Gone,
                Err(IoError::Timeout) if self.recv.is_empty() => {
                    self.cx.manager.stats.at(self.cx.worker.index).cx_idle_timeout.add(1);
                    break Next::Gone;
                }
                Err(IoError::Timeout) => break Next::Refuse(408, flags::IDLE_TIMEOUT),
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
        let framed = parsed.map(|()| framing::of_request(&self.request));
        let length = match framed {
            Ok(Ok(length)) => length,
            Ok(Err(_)) => return self.refuse(400, flags::DOWNSTREAM_PROTOCOL).await,
            Err(error) => return self.refuse_parse(error).await,
        };
        self.recv.consume(head_length);
        let expects = match self.expectation(length) {
            Ok(expects) => Cell::new(expects),
            Err(status) => return self.refuse(status, flags::DOWNSTREAM_PROTOCOL).await,
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
            Outcome::Complete if close || !source.is_done() => After::Close,
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

    /// Whether the client waits for "100 Continue"; the error is a status.
    fn expectation(&self, length: BodyLength) -> Result<bool, u16> {
        match self.request.known(Known::Expect) {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => {
                Ok(self.request.version == Version::Http11 && length != BodyLength::Empty)
            }
            Some(_) => Err(417),
        }
    }

    async fn refuse_parse(&mut self, error: ParseError) -> After {
        self.refuse(error.status(), flags::DOWNSTREAM_PROTOCOL).await
    }

    /// Answers a request that was not understood; where the next one would begin is unknown, so the connection ends.
    async fn refuse(&mut self, status: u16, flags: &'static str) -> After {
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
        exchange.refuse(status, flags, &mut source, &mut sink).await;
        After::Close
    }

    /// Says that nothing more will come, and reads on for a moment: closing with unread bytes would reset the connection
    /// and could take the response with it.
    async fn linger(&mut self) {
        if socket2::SockRef::from(self.stream).shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        self.timer.arm(Deadline::Downstream, Some(LINGER));
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
