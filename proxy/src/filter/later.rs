//! What a filter learns about a request and does to its response.

use crate::{
    http::head::Head,
    route::mutate::{Addition, Scene},
};

/// Changes that filters will make, the latest first. Exchanges whose filters have none to remember carry one pointer.
#[derive(Debug, Default)]
pub(crate) struct Later(Option<Box<Note>>);

/// Those of one filter.
#[derive(Debug)]
struct Note {
    filter: String,
    additions: Vec<Addition>,
    before: Option<Box<Note>>,
}

// === impl Later ===

impl Later {
    /// Notes what the filter of this name in the chain will do.
    pub(super) fn note(&mut self, filter: &str, additions: Vec<Addition>) {
        if !additions.is_empty() {
            let note = Note { filter: filter.to_owned(), additions, before: self.0.take() };
            self.0 = Some(Box::new(note));
        }
    }

    /// Does what was noted for this filter.
    pub(super) fn apply(&self, filter: &str, head: &mut Head, scene: &Scene<'_>) {
        let mut note = self.0.as_ref();
        while let Some(this) = note {
            if this.filter == filter {
                this.additions.iter().for_each(|addition| addition.apply(head, scene));
            }
            note = this.before.as_ref();
        }
    }
}
