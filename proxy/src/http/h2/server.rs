//! Serving HTTP/2 to a client.

use std::{
    future::poll_fn,
    rc::Rc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, server::Connection};

use super::{
    Meter, Transport, Watch,
    pings::Pings,
    stream::{Job, Streams},
};
use crate::{
    http::exchange::Context,
    net::Stream,
    overload::Action,
    worker::timer::{Deadline, Timer},
};

/// How long a connection has to end after its GOAWAY when nothing is in flight, or when it is ended by force.
const PARTING: Duration = Duration::from_secs(1);

/// A client's connection.
struct Session<'a> {
    connection: Connection<Transport, Bytes>,
    cx: Rc<Context>,
    timer: &'a Timer,
    watch: Rc<Watch>,
    streams: Rc<Streams>,
    pings: Pings,
    phase: Phase,
    /// As last seen; changes arm and disarm the idle timer.
    idle: bool,
    /// Requests so far.
    requests: u32,
    /// Bytes that the client had taken when one of its streams stalled.
    stalled_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// GOAWAY is sent; what is in flight is finished.
    Leaving,
    /// GOAWAY with an error is to be written, and that is all.
    Ending,
}

/// What a look at the connection leads to.
enum Turn {
    Wait,
    /// GOAWAY, in peace.
    Leave,
    /// GOAWAY, ENHANCE_YOUR_CALM.
    Refuse,
    /// The client is not there or does not read: nothing that is sent would arrive.
    Drop,
}

/// Serves `stream`, of which `prefix` was read already, until it ends.
pub(crate) async fn serve(stream: Stream, prefix: Bytes, cx: Rc<Context>, timer: &Timer) {
    let settings = &cx.manager.http2;
    let (transport, watch) = Transport::new(prefix, stream, Meter::of_client(settings.budget));
    timer.arm(Deadline::Downstream, cx.manager.timeouts.header);
    let handshake = settings.server(cx.manager.limits.head_bytes).handshake(transport);
    let handshake = timer.limit(Deadline::Downstream, handshake).await;
    timer.disarm(Deadline::Downstream);
    let cells = cx.manager.stats.at(cx.worker.index);
    let mut connection = match handshake {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            cells.cx_protocol_error.add(1);
            tracing::debug!(%error, "downstream http/2 handshake failed");
            return;
        }
        Err(_) => {
            cells.cx_idle_timeout.add(1);
            return;
        }
    };
    let pings = Pings::new(settings.keepalive, connection.ping_pong());
    timer.arm(Deadline::Downstream, cx.manager.timeouts.idle);
    let mut session = Session {
        connection,
        cx: Rc::clone(&cx),
        timer,
        watch,
        streams: Rc::default(),
        pings,
        phase: Phase::Serving,
        idle: true,
        requests: 0,
        stalled_at: None,
    };
    let result = poll_fn(|task| session.poll(task)).await;
    if let Err(error) = result {
        if error.is_go_away() && error.is_library() {
            cells.cx_protocol_error.add(1);
        }
        tracing::debug!(%error, "downstream http/2 connection ended");
    }
}

// === impl Session ===

impl Session<'_> {
    /// Ready when the connection is over, with what was wrong with it.
    fn poll(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match self.connection.poll_accept(task) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.requests = self.requests.saturating_add(1);
                    let (cx, streams) = (Rc::clone(&self.cx), Rc::clone(&self.streams));
                    self.cx.worker.lanes.start(Job { request, respond, cx, streams });
                    let limit = self.cx.manager.limits.requests_per_connection;
                    if limit.is_some_and(|limit| self.requests >= limit) {
                        self.leave();
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            match self.attend(task) {
                Turn::Wait => return Poll::Pending,
                Turn::Leave => self.leave(),
                Turn::Refuse => {
                    self.phase = Phase::Ending;
                    self.timer.arm(Deadline::Downstream, Some(PARTING));
                    self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                }
                Turn::Drop => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Looks at everything but frames.
    fn attend(&mut self, task: &mut TaskContext<'_>) -> Turn {
        let over = self.timer.check(Deadline::Downstream, task).is_err();
        if self.phase == Phase::Ending {
            return if over { Turn::Drop } else { Turn::Wait };
        }
        if let Some(flood) = self.watch.flood() {
            self.cx.manager.stats.at(self.cx.worker.index).cx_protocol_error.add(1);
            tracing::debug!(%flood, peer = %self.cx.peer, "downstream http/2 flood");
            return Turn::Refuse;
        }
        if self.pings.poll(task).is_ready() || self.is_stuck(task) {
            return Turn::Drop;
        }
        self.renew_idle_timer();
        match self.phase {
            Phase::Serving if over && self.idle || self.must_leave() => Turn::Leave,
            // A client that does not answer the GOAWAY is not waited for.
            Phase::Leaving if over && self.idle => Turn::Drop,
            _ => Turn::Wait,
        }
    }

    /// Whether the client is to be told to go, by a drain or because memory is short.
    ///
    /// Not before its first request: turned away as soon as it is there it would only come again, and its call would wait
    /// for as long as the drain takes. One that asks for nothing is found idle instead.
    fn must_leave(&self) -> bool {
        let overload = &self.cx.worker.shared.overload;
        self.requests > 0 && (self.timer.is_draining() || overload.is_saturated(Action::DisableKeepalive))
    }

    fn renew_idle_timer(&mut self) {
        let idle = self.streams.is_idle();
        if idle != self.idle {
            self.idle = idle;
            let patience = match self.phase {
                Phase::Serving => self.cx.manager.timeouts.idle,
                Phase::Leaving | Phase::Ending => Some(PARTING),
            };
            self.timer.arm(Deadline::Downstream, patience.filter(|_| idle));
        }
        self.timer.set_idle(idle && self.phase == Phase::Serving);
    }

    /// Whether a stream stalled and the connection takes not even its reset.
    fn is_stuck(&mut self, task: &TaskContext<'_>) -> bool {
        if self.streams.take_stalled() {
            self.stalled_at = Some(self.watch.sent());
            self.timer.arm(Deadline::Send, Some(PARTING));
        }
        let Some(sent) = self.stalled_at else { return false };
        if self.watch.sent() != sent {
            self.stalled_at = None;
            self.timer.disarm(Deadline::Send);
            return false;
        }
        self.timer.check(Deadline::Send, task).is_err()
    }

    fn leave(&mut self) {
        if self.phase == Phase::Serving {
            self.phase = Phase::Leaving;
            self.timer.arm(Deadline::Downstream, Some(PARTING).filter(|_| self.idle));
            self.connection.graceful_shutdown();
        }
    }
}
