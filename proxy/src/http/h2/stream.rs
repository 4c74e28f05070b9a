//! One request of an HTTP/2 connection.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;

use super::{
    convert,
    lanes::Gear,
    sink::{H2Sink, Outgoing, SharedOutgoing},
    source::H2Source,
};
use crate::{
    http::{
        body::{Sink, Source},
        exchange::{Context, Exchange, Outcome, Reason},
    },
    worker::timer::Deadline,
};

/// What the streams of a connection tell it.
#[derive(Debug, Default)]
pub(super) struct Streams {
    active: Cell<usize>,
    /// Set by a stream that ended because its client took nothing.
    stalled: Cell<bool>,
}

/// A request that came.
pub(super) struct Job {
    pub(super) request: Request<RecvStream>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) cx: Rc<Context>,
    pub(super) streams: Rc<Streams>,
}

/// Counts a stream while it lives.
struct Active(Rc<Streams>);

/// Handles one request to its end. It needs no owner beside the connection: when that is gone, so is the stream, and every
/// wait here ends with it.
pub(super) async fn run(job: Job, gear: &mut Gear) {
    let Job { request, respond, cx, streams } = job;
    let active = Active::new(streams);
    let Gear { request: head, response, timer } = gear;
    let (parts, incoming) = request.into_parts();
    let read = convert::read_request(&parts, head, cx.manager.limits.head_fields);
    drop(parts);
    let timeouts = cx.manager.timeouts;
    let body = H2Source::new(incoming, timer.clone(), Deadline::Downstream, timeouts.stream_idle);
    let length = convert::body_length(head, body.is_done());
    let mut source = Source::H2(body);
    let out = Rc::new(RefCell::new(Outgoing::Response(respond)));
    let mut sink = Sink::H2(H2Sink::response(Rc::clone(&out), timer.clone(), timeouts.body));
    let expects = Cell::new(false);
    let mut exchange = Exchange::new(&cx, timer, head, response, &expects);
    let ended = {
        let work = pin!(async {
            match read {
                Ok(()) => exchange.run(&mut source, &mut sink, length).await,
                Err(error) => {
                    exchange.refuse(error.status(), Reason::Http2Messaging, &mut source, &mut sink).await;
                    Outcome::Complete
                }
            }
        });
        unless_gone(work, &out).await
    };
    let why = exchange.reason();
    drop(exchange);
    if let (Some(Outcome::Complete), Some(body)) = (&ended, source.h2()) {
        body.linger().await;
    }
    if let Some(Outcome::Broken | Outcome::Tunnel(_)) = ended {
        let reason = match why {
            Reason::StreamIdleTimeout => {
                active.0.stalled.set(true);
                h2::Reason::CANCEL
            }
            Reason::Http1Codec | Reason::Http2Messaging => h2::Reason::PROTOCOL_ERROR,
            _ => h2::Reason::INTERNAL_ERROR,
        };
        out.borrow_mut().reset(reason);
    }
}

/// Runs `work` until it is done or the client does not want its result any more.
async fn unless_gone<T>(mut work: impl Future<Output = T> + Unpin, out: &SharedOutgoing) -> Option<T> {
    poll_fn(|cx| {
        if let Poll::Ready(value) = std::pin::Pin::new(&mut work).poll(cx) {
            return Poll::Ready(Some(value));
        }
        out.borrow_mut().poll_gone(cx).map(|()| None)
    })
    .await
}

// === impl Streams ===

impl Streams {
    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// Whether a stream ended stalled since the last time this was asked.
    pub(super) fn take_stalled(&self) -> bool {
        self.stalled.take()
    }
}

// === impl Active ===

impl Active {
    fn new(streams: Rc<Streams>) -> Self {
        streams.active.set(streams.active.get() + 1);
        Self(streams)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}
