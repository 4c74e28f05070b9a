//! What changed among the proxies since when, for watches.
//!
//! # Guarantees
//! * Nobody is told anything by the proxies: the feed looks at them when it is asked, and for watches once in [`EVERY`].
//!   A thousand acknowledgements meanwhile are one change of each proxy.
//! * A position of an earlier control, or one before something that was forgotten, is refused.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::time::Instant;
use weft_xds::{pb::envoy::config::core::v3::Node, server::ProxyBooks, session::server::Variant};

/// Between two looks for watches.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Proxies that went and are remembered.
const MAX_GONE: usize = 10_000;

/// See the [module](self).
pub(super) struct Feed {
    source: Box<dyn Fn() -> Vec<ProxyBooks> + Send + Sync>,
    seen: Mutex<Seen>,
}

/// Canonical are `proxies` and `gone`, as of `revision`.
struct Seen {
    /// Of the newest change. Begins with the time, so that it is higher than those of an earlier control.
    revision: u64,
    /// What changed after it is all known.
    oldest: u64,
    looked: Option<Instant>,
    /// As of the last look, by their ids.
    proxies: BTreeMap<String, ProxyBooks>,
    marks: HashMap<String, Mark>,
    /// In the order of their revisions.
    gone: VecDeque<(u64, ProxyBooks)>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    digest: u64,
    /// When it came.
    added: u64,
    /// When it changed last.
    changed: u64,
}

/// How a proxy changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

/// A change of a proxy.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) change: Change,
    /// As it is now; if it is gone, without its types.
    pub(super) books: ProxyBooks,
    /// When that was.
    pub(super) revision: u64,
}

/// The position is before all that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) oldest: u64,
}

// === impl Feed ===

impl Feed {
    /// Of the proxies that `source` gives, in the order of their ids.
    pub(super) fn new(source: impl Fn() -> Vec<ProxyBooks> + Send + Sync + 'static) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let start = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
        let seen = Seen {
            revision: start,
            oldest: start,
            looked: None,
            proxies: BTreeMap::new(),
            marks: HashMap::new(),
            gone: VecDeque::new(),
        };
        Self { source: Box::new(source), seen: Mutex::new(seen) }
    }

    /// All proxies as they are now, each with the revision of its last change, and the newest revision.
    pub(super) fn list(&self) -> (Vec<(ProxyBooks, u64)>, u64) {
        let mut seen = self.seen.lock();
        self.look(&mut seen, Duration::ZERO);
        let proxies = seen.proxies.iter();
        let all = proxies.map(|(id, books)| (books.clone(), seen.changed(id))).collect();
        (all, seen.revision)
    }

    /// The revision of a proxy's last change, as of a look not long ago.
    pub(super) fn revision_of(&self, id: &str) -> u64 {
        let mut seen = self.seen.lock();
        self.look(&mut seen, EVERY);
        seen.changed(id)
    }

    /// What changed after a position, in order, and the position after that; without one, everything that there is.
    pub(super) fn after(&self, position: Option<u64>) -> Result<(Vec<Event>, u64), Expired> {
        let mut seen = self.seen.lock();
        self.look(&mut seen, EVERY);
        seen.after(position)
    }

    fn look(&self, seen: &mut Seen, not_within: Duration) {
        let now = Instant::now();
        if seen.looked.is_none_or(|looked| now.duration_since(looked) >= not_within) {
            seen.looked = Some(now);
            seen.update((self.source)());
        }
    }
}

// === impl Seen ===

impl Seen {
    fn update(&mut self, now: Vec<ProxyBooks>) {
        let now: BTreeMap<String, ProxyBooks> =
            now.into_iter().map(|books| (books.node.id.clone(), books)).collect();
        for (id, mut books) in std::mem::take(&mut self.proxies) {
            if !now.contains_key(&id) {
                self.revision += 1;
                self.marks.remove(&id);
                books.types.clear();
                books.unanswered_for = None;
                self.gone.push_back((self.revision, books));
            }
        }
        while self.gone.len() > MAX_GONE {
            if let Some((revision, _)) = self.gone.pop_front() {
                self.oldest = revision;
            }
        }
        for (id, books) in &now {
            let digest = digest(books);
            let known = self.marks.get(id).copied();
            if known.is_none_or(|known| known.digest != digest) {
                self.revision += 1;
                let added = known.map_or(self.revision, |known| known.added);
                self.marks.insert(id.clone(), Mark { digest, added, changed: self.revision });
            }
        }
        self.proxies = now;
    }

    fn changed(&self, id: &str) -> u64 {
        self.marks.get(id).map_or(self.revision, |mark| mark.changed)
    }

    fn after(&self, position: Option<u64>) -> Result<(Vec<Event>, u64), Expired> {
        if position.is_some_and(|position| !(self.oldest..=self.revision).contains(&position)) {
            return Err(Expired { oldest: self.oldest });
        }
        let after = position.unwrap_or_default();
        let changed = self.proxies.iter().filter_map(|(id, books)| {
            let mark = self.marks.get(id).filter(|mark| mark.changed > after)?;
            let change = if mark.added > after { Change::Added } else { Change::Modified };
            Some(Event { change, books: books.clone(), revision: mark.changed })
        });
        // One that came and went in between is told as gone all the same: that does no harm.
        let gone = self.gone.iter().filter(|(revision, _)| position.is_some() && *revision > after);
        let gone = gone.map(|(revision, books)| Event {
            change: Change::Deleted,
            books: books.clone(),
            revision: *revision,
        });
        let mut events: Vec<Event> = changed.chain(gone).collect();
        events.sort_by_key(|event| event.revision);
        Ok((events, self.revision))
    }
}

/// Of everything that the object shows and that does not pass with the time.
fn digest(books: &ProxyBooks) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Node { user_agent_name, .. } = books.node.as_ref();
    (user_agent_name, books.connected_at, books.variant == Variant::Delta).hash(&mut hasher);
    for (type_, status) in &books.types {
        (type_.type_url(), status.state, &status.sent_version, &status.acked_version, status.held)
            .hash(&mut hasher);
        (status.sent_at, status.acked_at, status.refused_at).hash(&mut hasher);
        status.last_nack.as_ref().map(|nack| (&nack.version, &nack.message)).hash(&mut hasher);
        for (name, refused) in &status.refused {
            (name, &refused.reason).hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use weft_xds::{ResourceType, server::TypeStatus, session::server::SyncState};

    use super::*;

    /// A proxy that has acknowledged `version`, and nothing else of interest.
    pub(in super::super) fn proxy(id: &str, version: &str) -> ProxyBooks {
        let status = TypeStatus {
            state: SyncState::Synced,
            sent_version: version.to_owned(),
            acked_version: version.to_owned(),
            held: 1,
            acked: BTreeMap::new(),
            last_nack: None,
            refused: BTreeMap::new(),
            sent_at: None,
            acked_at: None,
            refused_at: None,
        };
        ProxyBooks {
            node: Node { id: id.to_owned(), ..Node::default() }.into(),
            connected_at: SystemTime::UNIX_EPOCH,
            variant: Variant::Delta,
            unanswered_for: None,
            types: [(ResourceType::Cluster, status)].into(),
            resources: Vec::new(),
        }
    }

    /// A feed of what the other end holds.
    pub(in super::super) fn feed(proxies: Vec<ProxyBooks>) -> (Arc<Feed>, Arc<Mutex<Vec<ProxyBooks>>>) {
        let proxies = Arc::new(Mutex::new(proxies));
        let source = proxies.clone();
        (Arc::new(Feed::new(move || source.lock().clone())), proxies)
    }

    fn told(feed: &Feed, position: Option<u64>) -> (Vec<(Change, String)>, u64) {
        let (events, position) = feed.after(position).expect("known");
        (events.into_iter().map(|event| (event.change, event.books.node.id.clone())).collect(), position)
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_goes_on_where_a_list_ended() {
        let (feed, proxies) = feed(vec![proxy("a", "1"), proxy("b", "1")]);
        let (all, position) = feed.list();
        assert_eq!(all.len(), 2);
        assert_eq!(told(&feed, Some(position)), (vec![], position));
        assert_eq!(told(&feed, None).0, [(Change::Added, "a".into()), (Change::Added, "b".into())]);
        *proxies.lock() = vec![proxy("b", "2"), proxy("c", "1")];
        tokio::time::advance(EVERY).await;
        let (events, next) = told(&feed, Some(position));
        let expected =
            [(Change::Deleted, "a".into()), (Change::Modified, "b".into()), (Change::Added, "c".into())];
        assert_eq!(events, expected);
        assert_eq!(told(&feed, Some(next)), (vec![], next));
        // It was away, and is back.
        *proxies.lock() = vec![proxy("a", "1"), proxy("b", "2"), proxy("c", "1")];
        assert_eq!(feed.list().0.len(), 3);
        let (events, _) = told(&feed, Some(position));
        assert_eq!(events.iter().filter(|(_, id)| id == "a").count(), 2);
        assert_eq!(events.last(), Some(&(Change::Added, "a".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_within_a_second_is_one_change() {
        let (feed, proxies) = feed(vec![proxy("a", "1")]);
        let (_, mut position) = feed.list();
        let mut changes = 0;
        for version in 0..1000 {
            *proxies.lock() = vec![proxy("a", &version.to_string())];
            tokio::time::advance(Duration::from_millis(10)).await;
            let (events, next) = told(&feed, Some(position));
            position = next;
            changes += events.len();
        }
        assert!((9..=11).contains(&changes), "{changes} in ten seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_that_is_not_known_is_refused() {
        let (feed, _) = feed(vec![]);
        let (_, position) = feed.list();
        for unknown in [1, position + 1] {
            assert_eq!(feed.after(Some(unknown)).unwrap_err(), Expired { oldest: position });
        }
    }
}
