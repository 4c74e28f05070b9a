//! What a controller has done that its cache does not show yet.
//!
//! A controller that made three pods and looks at its cache before the watch has told of them would make three more.
//! So it announces what it is about to do, watches count it off, and until then the controller leaves the number alone.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::key::Key;

/// After this time an expectation is given up: better a pod too many for a while than none for ever. Kubernetes' value.
const GIVE_UP: Duration = Duration::from_secs(300);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    entries: Mutex<HashMap<Key, Expected>>,
}

#[derive(Debug)]
struct Expected {
    /// Objects that will appear.
    additions: usize,
    /// UIDs of objects that will go.
    deletions: HashSet<String>,
    since: Instant,
}

// === impl Expectations ===

impl Expectations {
    /// To be called before the first of `count` objects is made.
    pub(crate) fn expect_additions(&self, owner: &Key, count: usize) {
        let mut entries = self.entries.lock();
        let expected = entries.entry(owner.clone()).or_default();
        expected.additions += count;
        expected.since = Instant::now();
    }

    /// To be called before the first of these objects is deleted.
    pub(crate) fn expect_deletions<'a>(&self, owner: &Key, uids: impl IntoIterator<Item = &'a str>) {
        let mut entries = self.entries.lock();
        let expected = entries.entry(owner.clone()).or_default();
        expected.deletions.extend(uids.into_iter().map(str::to_owned));
        expected.since = Instant::now();
    }

    /// An expected object appeared, or could not be made.
    pub(crate) fn addition_settled(&self, owner: &Key, count: usize) {
        if let Some(expected) = self.entries.lock().get_mut(owner) {
            expected.additions = expected.additions.saturating_sub(count);
        }
    }

    /// An object that was expected to go is going or gone, or could not be deleted.
    pub(crate) fn deletion_settled(&self, owner: &Key, uid: &str) {
        if let Some(expected) = self.entries.lock().get_mut(owner) {
            expected.deletions.remove(uid);
        }
    }

    /// Whether the cache shows everything that was done.
    pub(crate) fn settled(&self, owner: &Key) -> bool {
        let mut entries = self.entries.lock();
        let Some(expected) = entries.get(owner) else { return true };
        let settled = expected.additions == 0 && expected.deletions.is_empty();
        if settled || expected.since.elapsed() > GIVE_UP {
            entries.remove(owner);
            return true;
        }
        false
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, owner: &Key) {
        self.entries.lock().remove(owner);
    }
}

// === impl Expected ===

impl Default for Expected {
    fn default() -> Self {
        Self { additions: 0, deletions: HashSet::new(), since: Instant::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn additions_and_deletions_are_counted_off() {
        let (expectations, owner) = (Expectations::default(), Key::new("default", "rs"));
        assert!(expectations.settled(&owner));
        expectations.expect_additions(&owner, 2);
        expectations.addition_settled(&owner, 1);
        assert!(!expectations.settled(&owner));
        expectations.addition_settled(&owner, 1);
        assert!(expectations.settled(&owner));
        expectations.expect_deletions(&owner, ["a"]);
        expectations.deletion_settled(&owner, "b");
        assert!(!expectations.settled(&owner));
        expectations.deletion_settled(&owner, "a");
        assert!(expectations.settled(&owner));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expectation_that_is_never_met_is_given_up() {
        let (expectations, owner) = (Expectations::default(), Key::new("default", "rs"));
        expectations.expect_additions(&owner, 1);
        tokio::time::advance(GIVE_UP + Duration::from_secs(1)).await;
        assert!(expectations.settled(&owner));
    }
}
