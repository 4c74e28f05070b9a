//! The body of a request on its way.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use super::{failure::AttemptError, limits::Limits};
use crate::{
    http::body::PumpError,
    worker::timer::{Deadline, Timer},
};

/// The request body on its way, beside the response.
pub(super) struct Upload<'u, F> {
    future: Option<Pin<&'u mut F>>,
    timer: &'u Timer,
    /// For [`Deadline::Route`]: when the request is complete, other ones count.
    limits: &'u Limits,
    /// The upstream stopped taking the request; it may have answered nevertheless.
    pub(super) refused: bool,
}

// === impl Upload ===

impl<'u, F: Future<Output = Result<(), PumpError>>> Upload<'u, F> {
    pub(super) fn new(future: Option<Pin<&'u mut F>>, timer: &'u Timer, limits: &'u Limits) -> Self {
        Self { future, timer, limits, refused: false }
    }

    /// Whether the whole request was sent.
    pub(super) fn is_complete(&self) -> bool {
        self.future.is_none() && !self.refused
    }

    /// Runs `main` with the upload beside it. Fails as soon as the client fails; that the upstream takes no more is left
    /// to `main` to find out, since an answer may be on its way.
    pub(super) async fn beside<T>(&mut self, main: impl Future<Output = T>) -> Result<T, AttemptError> {
        let mut main = pin!(main);
        poll_fn(|cx| {
            if let Some(upload) = &mut self.future
                && let Poll::Ready(result) = upload.as_mut().poll(cx)
            {
                self.future = None;
                match result {
                    Ok(()) => self.timer.arm(Deadline::Route, self.limits.of_response()),
                    Err(PumpError::Source(error)) => return Poll::Ready(Err(error.into())),
                    Err(PumpError::Sink(_)) => self.refused = true,
                }
            }
            main.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}
