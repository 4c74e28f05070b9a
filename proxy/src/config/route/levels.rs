//! Changes to header fields, which every level around a route may add to.

use std::sync::Arc;

use crate::route::mutate::{Mutation, Mutations};

/// What one level changes.
pub(super) struct Changes {
    pub(super) request: Mutation,
    pub(super) response: Mutation,
}

/// The changes of a message, which has the same four fields at every level.
macro_rules! changes {
    ($path:expr, $message:expr) => {{
        use $crate::config::value::mutation;
        let message = $message;
        let (add, remove) = (&message.request_headers_to_add, &message.request_headers_to_remove);
        let request = mutation($path, "request", add, remove)?;
        let (add, remove) = (&message.response_headers_to_add, &message.response_headers_to_remove);
        let response = mutation($path, "response", add, remove)?;
        $crate::config::route::levels::Changes { request, response }
    }};
}
pub(super) use changes;

/// Changes of the outer levels, most specific first.
pub(super) struct Levels {
    pub(super) request: Vec<Arc<Mutation>>,
    pub(super) response: Vec<Arc<Mutation>>,
    /// Whether the most specific level is applied last, so that it wins.
    specific_last: bool,
}

/// Changes of one level, with nothing around it.
pub(super) fn single(mutation: Mutation) -> Mutations {
    Mutations(if mutation == Mutation::default() { Vec::new() } else { vec![Arc::new(mutation)] })
}

// === impl Levels ===

impl Levels {
    pub(super) fn new(specific_last: bool) -> Self {
        Self { request: Vec::new(), response: Vec::new(), specific_last }
    }

    /// These with one more level inside.
    pub(super) fn with(&self, changes: Changes) -> Self {
        let add = |levels: &[Arc<Mutation>], inner: Mutation| {
            let inner = (inner != Mutation::default()).then(|| Arc::new(inner));
            inner.into_iter().chain(levels.iter().cloned()).collect()
        };
        Self {
            request: add(&self.request, changes.request),
            response: add(&self.response, changes.response),
            specific_last: self.specific_last,
        }
    }

    pub(super) fn mutations(&self, levels: &[Arc<Mutation>]) -> Mutations {
        let mut levels = levels.to_vec();
        if self.specific_last {
            levels.reverse();
        }
        Mutations(levels)
    }
}
