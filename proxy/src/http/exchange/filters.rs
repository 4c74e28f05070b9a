//! The filters' part in an exchange.

use std::sync::Arc;

use super::{Exchange, Reply};
use crate::{
    filter::{Overrides, Passage, ResponseBody},
    http::{body::Source, change::Changes, h1::framing::BodyLength, head::Known},
    route::{Action, Route, Target},
};

impl Exchange<'_> {
    /// Leads the request through the filters; the answer if one of them gives it.
    pub(super) async fn filter_request(&mut self, source: &mut Source<'_>) -> Result<(), Box<Reply>> {
        let route = self.record.route.clone();
        let filters = self.filters.clone();
        let seen = self.seen.insert(0);
        let passage = Passage {
            request: self.request,
            cx: self.cx,
            record: &mut self.record,
            route: route.as_deref(),
            weighted: route.as_deref().and_then(|route| overrides(route, self.weighted)),
            drawn: self.weighted,
        };
        filters.on_request(passage, source, seen).await
    }

    /// Leads the response, whose body is so long, through the filters, if the request came as far as them; what they want
    /// done to the body. `local` is the body of an answer of our own.
    pub(super) fn filter_response(&mut self, length: BodyLength, local: Option<&[u8]>) -> Changes {
        let Some(seen) = self.seen else { return Changes::default() };
        let filters = self.filters.clone();
        let route = self.record.route.as_ref().map(Arc::clone);
        let passage = Passage {
            request: self.request,
            cx: self.cx,
            record: &mut self.record,
            route: route.as_deref(),
            weighted: route.as_deref().and_then(|route| overrides(route, self.weighted)),
            drawn: self.weighted,
        };
        let mut changes = Changes::default();
        let body = ResponseBody { length, local, changes: &mut changes };
        self.close |= filters.on_response(self.response, passage, body, seen);
        if !changes.is_empty() {
            self.response.remove_known(Known::ContentLength);
        }
        changes
    }
}

/// What the weighted cluster that was drawn says about filters.
fn overrides(route: &Route, drawn: usize) -> Option<&Overrides> {
    let Action::Forward(forward) = &route.action else { return None };
    let Target::Weighted { clusters, .. } = &forward.target else { return None };
    clusters.get(drawn).map(|cluster| &cluster.overrides)
}
