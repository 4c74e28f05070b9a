//! What is to be done once a second on a data thread, whether requests come or not.

use std::{
    fmt,
    rc::Rc,
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;

use super::Worker;

/// Something that looks after itself between requests.
pub(crate) trait Upkeep: fmt::Debug + Send + Sync {
    /// Looks whether anything is to be done, and starts it; must not block.
    fn tend(self: Arc<Self>, worker: &Rc<Worker>);
}

/// All that there is; configuration adds, one worker looks.
#[derive(Debug, Default)]
pub(crate) struct Upkeeps(ArcSwap<Vec<Weak<dyn Upkeep>>>);

// === impl Upkeeps ===

impl Upkeeps {
    /// Looks after `upkeep` from now on, as long as somebody else holds it.
    pub(crate) fn add(&self, upkeep: &Arc<dyn Upkeep>) {
        self.0.rcu(|before| {
            let alive = before.iter().filter(|upkeep| upkeep.strong_count() > 0).cloned();
            alive.chain([Arc::downgrade(upkeep)]).collect::<Vec<_>>()
        });
    }

    /// Looks after all. To be called by one worker about once a second.
    pub(super) fn tend(&self, worker: &Rc<Worker>) {
        for upkeep in self.0.load().iter().filter_map(Weak::upgrade) {
            upkeep.tend(worker);
        }
    }
}
