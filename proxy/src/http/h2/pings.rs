//! Keep-alive pings on an HTTP/2 connection.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll},
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use super::KeepalivePings;

/// Sends a ping now and then, and notices when one is not answered. Without settings it does nothing and costs nothing.
pub(crate) struct Pings(Option<State>);

struct State {
    pings: PingPong,
    settings: KeepalivePings,
    /// Until the next ping, or until the answer must be there.
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
}

/// The peer did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unanswered;

// === impl Pings ===

impl Pings {
    pub(crate) fn new(settings: Option<KeepalivePings>, pings: Option<PingPong>) -> Self {
        Self(settings.zip(pings).map(|(settings, pings)| State {
            pings,
            settings,
            sleep: Box::pin(sleep_until(Instant::now() + settings.interval)),
            waiting: false,
        }))
    }

    /// To be called whenever the connection is polled. Never ready but with [`Unanswered`].
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Unanswered> {
        let Some(state) = &mut self.0 else { return Poll::Pending };
        loop {
            if state.waiting && state.pings.poll_pong(cx).is_ready() {
                state.waiting = false;
                state.sleep.as_mut().reset(Instant::now() + state.settings.interval);
            }
            if state.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if state.waiting {
                return Poll::Ready(Unanswered);
            }
            // An error means that the connection is ending; whoever polls that sees it.
            if state.pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            state.waiting = true;
            state.sleep.as_mut().reset(Instant::now() + state.settings.timeout);
        }
    }
}
