//! The filters of a connection manager, in order, and an exchange's way through them.

use std::sync::Arc;

use super::{Filter, Overrides, Request, Response, ResponseBody, Step, overrides::Own};
use crate::{
    http::{
        change::RequestBody,
        exchange::{Context, Record, Reply},
        head::Head,
    },
    route::Route,
};

/// The filters before the router.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(super) entries: Vec<Entry>,
}

/// One place in a chain.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// By which routes refer to it.
    pub(super) name: String,
    /// Off unless a route says otherwise.
    pub(super) disabled: bool,
    pub(super) filter: Arc<dyn Filter>,
}

/// An exchange as its chain sees it.
pub(crate) struct Passage<'p> {
    pub(crate) request: &'p mut Head,
    pub(crate) cx: &'p Context,
    pub(crate) record: &'p mut Record,
    pub(crate) route: Option<&'p Route>,
    /// What the chosen one of the route's weighted clusters says.
    pub(crate) weighted: Option<&'p Overrides>,
    /// Which that is.
    pub(crate) drawn: usize,
}

// === impl Chain ===

impl Chain {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Runs the request hooks; the answer, if a filter gives one. `seen` counts the places that were passed, for
    /// [`Self::on_response`].
    pub(crate) async fn on_request(
        &self,
        passage: Passage<'_>,
        body: &mut dyn RequestBody,
        seen: &mut usize,
    ) -> Result<(), Box<Reply>> {
        let Passage { request, cx, record, route, weighted, drawn } = passage;
        for entry in &self.entries {
            *seen += 1;
            let own = Own::new(&entry.name, route, weighted);
            if own.is_disabled(entry.disabled) {
                continue;
            }
            let record = &mut *record;
            let request = Request { head: &mut *request, cx, route, record, own, drawn, body: &mut *body };
            match entry.filter.on_request(request) {
                Step::Continue => {}
                Step::Reply(reply) => return Err(reply),
                Step::Wait(future) => future.await?,
            }
        }
        Ok(())
    }

    /// Runs the response hooks. `seen` is what [`Self::on_request`] left; whether the client's connection must end.
    pub(crate) fn on_response(
        &self,
        head: &mut Head,
        passage: Passage<'_>,
        body: ResponseBody<'_>,
        seen: usize,
    ) -> bool {
        let Passage { request, cx, record, route, weighted, .. } = passage;
        let mut close = false;
        for (index, entry) in self.entries.iter().enumerate().rev() {
            let own = Own::new(&entry.name, route, weighted);
            if own.is_disabled(entry.disabled) {
                continue;
            }
            entry.filter.on_response(Response {
                head: &mut *head,
                cx,
                request: &*request,
                record: &*record,
                own,
                saw_request: index < seen,
                close: &mut close,
                body: ResponseBody { changes: &mut *body.changes, ..body },
            });
        }
        close
    }
}
