//! Virtual hosts and clusters that are asked for when a request for them comes.
//!
//! # Guarantees
//! * What is asked for once is asked for from the server once, however many requests wait for it.
//! * What the server does not have is forgotten: the next request asks anew.
//! * How many names are waited for at once is bounded, as clients choose them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// Who waits for what.
#[derive(Default)]
pub(crate) struct Demand {
    names: Mutex<Names>,
    /// Told when another name is asked for.
    changed: Arc<Notify>,
}

/// Names of resources.
#[derive(Default)]
struct Names {
    /// Not answered yet; whoever waits is told by the end of the sender.
    waited: BTreeMap<String, watch::Sender<()>>,
    /// Those that are there.
    found: BTreeSet<String>,
}

/// The end of a wait for one of them.
pub(crate) struct Answer(watch::Receiver<()>);

/// A route table whose virtual hosts can be asked for.
#[derive(Debug, Clone)]
pub(crate) struct OnDemand {
    pub(crate) table: Arc<str>,
    pub(crate) demand: Arc<Demand>,
}

/// Most names that are waited for.
const MOST_WAITED: usize = 1024;
/// Most names that are kept subscribed to.
const MOST_FOUND: usize = 100_000;

// === impl Demand ===

impl Demand {
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self { names: Mutex::default(), changed }
    }

    /// Told when another name is asked for.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// All names that are asked for.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let names = self.names.lock();
        names.found.iter().chain(names.waited.keys()).cloned().collect()
    }

    /// Names that are waited for.
    pub(crate) fn waited(&self) -> Vec<String> {
        self.names.lock().waited.keys().cloned().collect()
    }

    /// What was waited for is there.
    pub(crate) fn found(&self, name: &str) {
        let mut names = self.names.lock();
        if names.waited.remove(name).is_some() && names.found.len() < MOST_FOUND {
            names.found.insert(name.to_owned());
        }
    }

    /// What was asked for does not exist, or not any more.
    pub(crate) fn absent(&self, name: &str) {
        let mut names = self.names.lock();
        names.waited.remove(name);
        names.found.remove(name);
    }

    /// Forgets what is not of such a table.
    pub(crate) fn retain(&self, of_table: impl Fn(&str) -> bool) {
        let mut names = self.names.lock();
        names.waited.retain(|name, _| of_table(name));
        names.found.retain(|name| of_table(name));
    }

    /// Asks for a resource; `None` if it is there, whoever looked before, or too many others are waited for.
    pub(crate) fn ask(&self, name: String) -> Option<Answer> {
        let mut names = self.names.lock();
        if let Some(waited) = names.waited.get(&name) {
            return Some(Answer(waited.subscribe()));
        }
        if names.found.contains(&name) || names.waited.len() >= MOST_WAITED {
            return None;
        }
        let (sender, receiver) = watch::channel(());
        names.waited.insert(name, sender);
        self.changed.notify_one();
        Some(Answer(receiver))
    }
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demand").finish_non_exhaustive()
    }
}

// === impl Answer ===

impl Answer {
    /// Resolves when it is known whether there is such a one.
    pub(crate) async fn known(mut self) {
        // Nothing is ever sent: the sender goes.
        while self.0.changed().await.is_ok() {}
    }
}

// === impl OnDemand ===

impl OnDemand {
    /// Asks for a host; `None` if it is there, whoever looked before, or too many others are waited for.
    pub(crate) fn ask(&self, host: &[u8]) -> Option<Answer> {
        let host = std::str::from_utf8(host).ok()?;
        self.demand.ask(format!("{}/{host}", self.table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(demand: &Arc<Demand>) -> OnDemand {
        OnDemand { table: "r".into(), demand: Arc::clone(demand) }
    }

    #[tokio::test]
    async fn all_who_wait_are_told_and_what_is_there_stays_asked_for() {
        let demand = Arc::new(Demand::default());
        let first = table(&demand).ask(b"a").expect("room");
        let second = table(&demand).ask(b"a").expect("room");
        assert_eq!(demand.waited(), ["r/a"]);
        demand.found("r/a");
        first.known().await;
        second.known().await;
        assert_eq!((demand.waited().len(), demand.names().len()), (0, 1));
        assert!(table(&demand).ask(b"a").is_none(), "nothing would come of it");
        let third = table(&demand).ask(b"b").expect("room");
        demand.absent("r/b");
        third.known().await;
        assert_eq!(demand.names().into_iter().collect::<Vec<_>>(), ["r/a"]);
        demand.retain(|name| name.starts_with("s/"));
        assert!(demand.names().is_empty());
    }

    #[test]
    fn names_are_the_clients_choice_and_bounded() {
        let demand = Arc::new(Demand::default());
        let held: Vec<_> =
            (0..MOST_WAITED).map(|number| table(&demand).ask(number.to_string().as_bytes())).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(table(&demand).ask(b"one more").is_none());
        assert!(table(&demand).ask(b"0").is_some(), "of those that are waited for anyhow there may be more");
        assert!(table(&demand).ask(b"\xff").is_none());
    }
}
